"""Child processes: own session each, dying with the node, waited for without threads.

A container is a session. Its end is the end of its first process; the rest of its group, and whatever
left the group but still carries the container's environment mark, is killed then (`orphans`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OUTPUT_DRAIN_S = 1.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class LaunchError(Exception):
    """A process that could not be started."""


@dataclass(frozen=True)
class Launch:
    """All that a start needs: argv[0] is the file to execute."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path


class Process:
    """One running child. `wait` may be awaited by several tasks."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self.pid = child.pid
        self.start_ticks = start_ticks(child.pid)
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pidfd = os.pidfd_open(child.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    async def wait(self) -> int:
        """The return code: negative for a signal, as in subprocess."""
        return await asyncio.shield(self._exit)

    @property
    def is_running(self) -> bool:
        return not self._exit.done()

    def send(self, number: signal.Signals) -> None:
        """To the first process only, as a container runtime does."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._child.wait()
        if not self._exit.done():
            self._exit.set_result(code)


def spawn(launch: Launch, stdout: int, stderr: int) -> Process:
    """Starts a child in a session of its own that cannot outlive this process. Raises LaunchError."""
    try:
        child = subprocess.Popen(
            list(launch.argv),
            env=dict(launch.env),
            cwd=launch.cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise LaunchError(f"cannot start {launch.argv[0]}: {error}") from error
    return Process(child)


async def run_to_end(launch: Launch, output_limit_bytes: int = 10_240) -> tuple[int, str]:
    """Exit code and first output of a short command; at its end or at cancellation its group is killed.

    Raises LaunchError.
    """
    reading, writing = os.pipe()
    try:
        process = spawn(launch, writing, writing)
    except LaunchError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        output = asyncio.create_task(_read_start(reading, output_limit_bytes))
        code = await process.wait()
    finally:
        process.kill_group()
        # What left the group may hold the pipe open for ever; its container's end will find it.
        await asyncio.wait({output}, timeout=OUTPUT_DRAIN_S)
        output.cancel()
    text = output.result() if output.done() else b""
    return code, text.decode(errors="replace")


async def _read_start(descriptor: int, limit_bytes: int) -> bytes:
    """Reads to the end, keeps the first bytes: a chatty command must never block on its pipe."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    kept = b""
    try:
        while chunk := await reader.read(65_536):
            kept = (kept + chunk)[:limit_bytes]
    finally:
        transport.close()
    return kept


def _die_with(parent: int) -> Callable[[], None]:
    """Runs in the child before exec: SIGKILL when the node ends, and at once if it already has."""

    def arrange() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(127)

    return arrange


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    # A first thread that is a zombie is not the end: the others may still run, and hold the sockets open.
    is_over = state in "ZX" and int(rest[16]) <= 1  # field 20: threads
    return None if is_over else int(rest[18])
