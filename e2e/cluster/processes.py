"""Processes that outlive the tool: started in sessions of their own, recorded, and never confused with others.

A process is named by pid *and* start time, because pids are used again. Each one also carries
``TANDEM_CLUSTER=<run folder>`` in its environment, so that teardown finds it even when the tool was
killed before it could write the record down. Nothing else is ever signalled.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.places import RunFolder

CLUSTER_MARK = "TANDEM_CLUSTER"
# The process node marks the processes of its pods with its own root folder, which lies in the run folder.
NODE_MARK = "TANDEM_PROCESS_NODE"
POLL_S = 0.02


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    start_ticks: int

    def __str__(self) -> str:
        return f"{self.pid} {self.start_ticks}"


def parse_process_id(text: str) -> ProcessId | None:
    """Read ``PID START_TICKS``; None for a record that was cut short."""
    words = text.split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return None
    return ProcessId(int(words[0]), int(words[1]))


def fetch_start_ticks(pid: int) -> int | None:
    """Field 22 of ``/proc/PID/stat``; None for a process that is gone or only waits to be reaped.

    A first thread that is a zombie is not the end: the others may still run, and hold the sockets open.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    is_over = fields[0] in "ZX" and int(fields[17]) <= 1  # field 20: threads
    return None if is_over else int(fields[19])


def fetch_process_id(pid: int) -> ProcessId | None:
    ticks = fetch_start_ticks(pid)
    return None if ticks is None else ProcessId(pid, ticks)


def is_alive(process: ProcessId) -> bool:
    return fetch_start_ticks(process.pid) == process.start_ticks


def spawn(name: str, command: Sequence[str], run: RunFolder, environment: Mapping[str, str]) -> ProcessId:
    """Start ``command`` detached, its output in ``log/NAME.log``, its identity in ``pids/NAME``."""
    run.logs.mkdir(parents=True, exist_ok=True)
    run.pids.mkdir(parents=True, exist_ok=True)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    # Not subprocess.Popen: it insists on being waited for, and these are meant to be left running.
    pid = os.posix_spawn(
        command[0],
        list(command),
        {**environment, CLUSTER_MARK: str(run.path)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(run.log(name)), append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    process = fetch_process_id(pid) or ProcessId(pid, 0)
    (run.pids / name).write_text(f"{process}\n")
    return process


def fetch_recorded(run: RunFolder) -> dict[str, ProcessId]:
    """What was recorded in this run folder, by name, dead or alive."""
    records = sorted(run.pids.iterdir()) if run.pids.is_dir() else []
    parsed = {file.name: parse_process_id(file.read_text()) for file in records}
    return {name: process for name, process in parsed.items() if process}


def fetch_marked(run: RunFolder) -> list[ProcessId]:
    """Every live process of ours that carries this run folder's mark, recorded or not."""
    found = (fetch_marked_process(int(entry), run) for entry in os.listdir("/proc") if entry.isdigit())
    return [process for process in found if process]


def fetch_marked_process(pid: int, run: RunFolder) -> ProcessId | None:
    """The process, if its environment names ``run``; processes of other users cannot be read and are not ours."""
    process = fetch_process_id(pid)
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (PermissionError, FileNotFoundError, ProcessLookupError):
        return None
    return process if process and pid != os.getpid() and is_marked(environment, run.path) else None


def is_marked(environment: Sequence[bytes], run_folder: Path) -> bool:
    """True when an environment block belongs to this cluster or to a process node inside it."""
    cluster = f"{CLUSTER_MARK}={run_folder}".encode()
    node = f"{NODE_MARK}={run_folder}/".encode()
    return any(entry == cluster or entry.startswith(node) for entry in environment)


def send_signal(process: ProcessId, number: signal.Signals) -> None:
    """Signal the process, if it is still the one that was meant."""
    if is_alive(process):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def stop(processes: Iterable[ProcessId], grace_s: float) -> None:
    """TERM, at most ``grace_s`` to end, then KILL; returns when all are gone."""
    remaining = list(processes)
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if patience_s > 0:
            for process in remaining:
                send_signal(process, number)
            remaining = wait_for_end(remaining, patience_s)


def wait_for_end(processes: Iterable[ProcessId], patience_s: float) -> list[ProcessId]:
    """Wait until all ended; returns those that did not."""
    deadline = time.monotonic() + patience_s
    remaining = [process for process in processes if not has_ended(process)]
    while remaining and time.monotonic() < deadline:
        time.sleep(POLL_S)
        remaining = [process for process in remaining if not has_ended(process)]
    return remaining


def has_ended(process: ProcessId) -> bool:
    """True for a process that is gone; reaps it where it was a child of ours."""
    if is_alive(process):
        return False
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return True
