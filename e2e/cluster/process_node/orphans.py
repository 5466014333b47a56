"""Processes and folders that an earlier run of a node left behind, and how to end them.

Two traces lead to a process: DIR/pods/UID/pids/CONTAINER holds "PID STARTTICKS", and every process of a
pod carries TANDEM_PROCESS_NODE=DIR in its environment (so do its descendants, unless they clear it).
`python -m cluster.process_node.orphans DIR` cleans up after a node that can no longer do it itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from cluster.process_node.folders import NodeFolders
from cluster.process_node.processes import start_ticks

NODE_MARK = "TANDEM_PROCESS_NODE"
CONTAINER_MARK = "TANDEM_PROCESS_NODE_CONTAINER"


def marked_processes(mark: str, value: str) -> list[int]:
    """Pids of own living processes whose environment at exec had mark=value."""
    wanted = f"{mark}={value}".encode()
    return [pid for pid in _all_pids() if wanted in _environment(pid) and start_ticks(pid) is not None]


def recorded_processes(root: Path) -> list[int]:
    """Pids in the pid files below root that are still the same processes."""
    return [pid for file in root.glob("pods/*/pids/*") if (pid := _recorded_pid(file))]


def record_pid(file: Path, pid: int, ticks: int | None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{pid} {ticks}\n")


def kill_marked(mark: str, value: str) -> int:
    """SIGKILLs until none is left (a dying one may have forked); returns how many there were at first."""
    first = found = marked_processes(mark, value)
    while found:
        kill_all(found)
        found = marked_processes(mark, value)
    return len(first)


def kill_all(pids: Iterable[int], patience_s: float = 5.0) -> None:
    """SIGKILLs these and waits until they are gone, or zombies of a parent that does not reap."""
    ticks = {pid: start_ticks(pid) for pid in pids}
    send_kill(ticks)
    end = time.monotonic() + patience_s
    while any(was is not None and start_ticks(pid) == was for pid, was in ticks.items()):
        if time.monotonic() > end:
            raise TimeoutError(f"processes {sorted(ticks)} did not end within {patience_s} s of SIGKILL")
        time.sleep(0.01)


def send_kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_leftover_processes(root: Path) -> int:
    """Kills every process of the pods below root; returns how many there were."""
    recorded = recorded_processes(root)
    kill_all(recorded)
    return len(recorded) + kill_marked(NODE_MARK, str(root))


def remove_all_traces(root: Path) -> int:
    """After this nothing of the node's pods is left: no process, no folder. Returns the processes killed."""
    root = root.resolve()
    killed = end_leftover_processes(root)
    NodeFolders(root).remove()
    return killed


def _all_pids() -> Iterator[int]:
    own = os.getpid()
    return (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone meanwhile, or another user's
        return []


def _recorded_pid(file: Path) -> int | None:
    try:
        pid, ticks = file.read_text().split()
        alive = start_ticks(int(pid))
        return int(pid) if alive is not None and alive == int(ticks) else None
    except (OSError, ValueError):  # half-written at a crash: the environment mark still finds the process
        return None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m cluster.process_node.orphans DIR (the --root of a node that has ended)")
    print(f"{remove_all_traces(Path(sys.argv[1]))} processes ended")
