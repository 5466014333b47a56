"""Processes are known by pid and start time, found by their mark, and ended for certain."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.places import RunFolder
from cluster.processes import (
    ProcessId,
    fetch_marked,
    fetch_process_id,
    fetch_recorded,
    fetch_start_ticks,
    is_alive,
    is_marked,
    parse_process_id,
    send_signal,
    spawn,
    stop,
)

STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    yield folder
    stop([*fetch_recorded(folder).values(), *fetch_marked(folder)], grace_s=0)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def start(run: RunFolder, name: str, *arguments: str) -> ProcessId:
    return spawn(name, [sys.executable, "-S", "-c", *arguments], run, {"PATH": os.environ["PATH"]})


def test_a_spawned_process_is_recorded_logged_and_in_a_session_of_its_own(run: RunFolder) -> None:
    """Everything that teardown and people need is there from the start."""
    process = start(run, "talker", "import time; print('hello', flush=True); time.sleep(60)")
    wait_for(lambda: run.log("talker").read_text() == "hello\n")
    assert fetch_recorded(run) == {"talker": process}
    assert is_alive(process)
    assert os.getsid(process.pid) == process.pid


def test_another_start_time_is_another_process(run: RunFolder) -> None:
    """A pid that is used again is neither alive nor signalled."""
    process = start(run, "sleeper", "import time; time.sleep(60)")
    stranger = ProcessId(process.pid, process.start_ticks + 1)
    assert not is_alive(stranger)
    send_signal(stranger, signal.SIGKILL)
    assert is_alive(process)


def test_a_zombie_counts_as_dead(run: RunFolder) -> None:
    """Where nobody reaps, a killed process stays in the table for long, and must not be waited for."""
    process = start(run, "short", "")
    wait_for(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert fetch_start_ticks(process.pid) is None
    assert not is_alive(process)


HEADLESS = """
import ctypes, threading, time
threading.Thread(target=lambda: (time.sleep(0.3), print("headless", flush=True), time.sleep(60))).start()
ctypes.CDLL(None).syscall(60, 0)  # ends the first thread only
"""


def test_a_zombie_whose_other_threads_run_is_alive(run: RunFolder) -> None:
    """Its sockets are still open: a port would be taken although its owner was said to be gone."""
    process = start(run, "headless", HEADLESS)
    wait_for(lambda: run.log("headless").read_text() == "headless\n")
    assert Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    assert is_alive(process)
    stop([process], grace_s=0.1)
    assert not is_alive(process)


def test_stop_gives_grace_and_then_kills(run: RunFolder) -> None:
    """A process that is deaf to TERM ends too."""
    process = start(run, "deaf", STUBBORN)
    wait_for(lambda: run.log("deaf").read_text() == "deaf\n")
    stop([process], grace_s=0.1)
    assert fetch_process_id(process.pid) is None


def test_stop_lets_a_willing_process_end_by_itself(run: RunFolder) -> None:
    """TERM comes first."""
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit()));"
    process = start(run, "willing", code + "print('up', flush=True); time.sleep(60)")
    wait_for(lambda: run.log("willing").read_text() == "up\n")
    stop([process], grace_s=5)
    assert run.log("willing").read_text() == "up\nbye\n"


def test_marked_processes_are_found_without_a_record(run: RunFolder) -> None:
    """The environment of a process says to which cluster it belongs, its children included."""
    process = start(run, "parent", "import os, time; os.fork(); time.sleep(60)")
    wait_for(lambda: len(fetch_marked(run)) == 2)
    assert process in fetch_marked(run)
    assert fetch_marked(RunFolder(run.path.with_name("run2"))) == []


@pytest.mark.parametrize(
    ("environment", "want"),
    [
        ([b"PATH=/bin", b"TANDEM_CLUSTER=/c/run/a"], True),
        ([b"TANDEM_CLUSTER=/c/run/ab"], False),
        ([b"TANDEM_PROCESS_NODE=/c/run/a/nodes/process-0"], True),
        ([b"TANDEM_PROCESS_NODE=/c/run/ab/nodes/process-0"], False),
        ([b"OTHER=TANDEM_CLUSTER=/c/run/a"], False),
        ([], False),
    ],
)
def test_a_mark_is_exact(environment: list[bytes], want: bool) -> None:
    """A cluster whose name begins like another's is never taken for it."""
    assert is_marked(environment, Path("/c/run/a")) is want


@pytest.mark.parametrize("text", ["", "12", "12 x", "12 13 14", "-1 5"])
def test_a_record_that_was_cut_short_is_no_process(text: str) -> None:
    """A crash in the middle of writing must not make teardown signal anything."""
    assert parse_process_id(text) is None
