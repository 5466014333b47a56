"""Processes on one core each, and what they cost: CPU and memory of a whole process tree, read from /proc."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Of the cores that we may use, the first and the last: two different ones wherever there are two.
LOAD_CORE, ROUTER_CORE = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
STOP_TIMEOUT_S = 10


def pinned(command: Sequence[str], core: int) -> list[str]:
    """`command` on one core only."""
    return ["taskset", "-c", str(core), *command]


@dataclass
class Process:
    """A process that we started, with all that it started itself."""

    popen: subprocess.Popen[str]

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        core: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        is_read: bool = False,
    ) -> Process:
        """Start `command` on `core`; its output goes to `log`, or is read by `read_line`."""
        with log.open("w") as output:
            popen = subprocess.Popen(
                pinned(command, core),
                stdout=subprocess.PIPE if is_read else output,
                stderr=output,
                text=True,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        return cls(popen)

    def read_line(self) -> str:
        """The next line of its output."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline()

    @property
    def is_running(self) -> bool:
        """It has not ended by itself."""
        return self.popen.poll() is None

    def cpu_s(self) -> float:
        """CPU time of every thread of the tree, to the nanosecond, as the scheduler counts it."""
        return sum(thread_cpu_ns(task) for pid in tree(self.popen.pid) for task in tasks(pid)) / 1e9

    def memory_bytes(self) -> int:
        """Memory of the tree; what its processes share is counted once (PSS)."""
        return sum(pss_bytes(pid) for pid in tree(self.popen.pid))

    def stop(self) -> None:
        """End it and all that it started."""
        pids = list(tree(self.popen.pid))
        self.popen.terminate()
        try:
            self.popen.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for pid in pids[1:]:
            kill_if_ours(pid, self.popen.pid)


def kill_if_ours(pid: int, session: int) -> None:
    """Kill a process that has outlived its parent, unless its number has passed to another."""
    try:
        if os.getsid(pid) == session:
            os.kill(pid, 9)
    except ProcessLookupError:
        return


def tree(pid: int) -> Iterator[int]:
    """`pid` and all its descendants."""
    yield pid
    for task in tasks(pid):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from tree(int(child))


def tasks(pid: int) -> list[Path]:
    """Threads of a process; none when it has ended."""
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def thread_cpu_ns(task: Path) -> int:
    """First field of schedstat: time spent on the CPU, ns."""
    try:
        return int((task / "schedstat").read_text().split()[0])
    except OSError:
        return 0


def pss_bytes(pid: int) -> int:
    """Proportional set size of one process; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
