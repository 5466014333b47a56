"""The engine as a child process: started in a session of its own, its output relayed and remembered, always reaped."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tandem_worker.process_control import adopt_orphans

TAIL_LINES = 400
KILL_WAIT_S = 5.0


class LogTail:
    """The last complete lines of a stream of bytes."""

    def __init__(self, lines: int = TAIL_LINES) -> None:
        self._lines: deque[str] = deque(maxlen=lines)
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        *complete, self._rest = (self._rest + chunk).split(b"\n")
        self._lines.extend(line.decode(errors="replace").rstrip("\r") for line in complete)

    def read_lines(self) -> list[str]:
        """Oldest first, with an unfinished last line."""
        return [*self._lines, self._rest.decode(errors="replace")]


class ChildProcess:
    """One child, and whatever it leaves behind.

    Reaping is ours, not asyncio's or subprocess's: as PID 1 (or as subreaper) we also inherit strangers.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self._directory = directory
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pid = 0
        self.tail = LogTail()

    async def start(self) -> None:
        """Start it. Raises OSError when the command cannot be run."""
        adopt_orphans()
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)
        process = subprocess.Popen(  # noqa: ASYNC220 - a fork takes milliseconds, and we reap by ourselves
            self._command,
            env=self._environment,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._pid = process.pid
        process.returncode = 0  # keeps subprocess from waiting for a pid that we reap
        assert process.stdout is not None
        asyncio.get_running_loop().add_reader(process.stdout.fileno(), self._relay, process.stdout)

    @property
    def is_alive(self) -> bool:
        return self._pid != 0 and not self._ended.done()

    async def wait(self) -> int:
        """Its return code, negative for a signal, once it has ended."""
        return await asyncio.shield(self._ended)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s`, then SIGKILL to what it left in its session. Bounded."""
        if self.is_alive:
            self._signal(signal.SIGTERM)
            await asyncio.wait([self._ended], timeout=grace_s)
        self._signal_group(signal.SIGKILL)
        if self.is_alive:
            await asyncio.wait([self._ended], timeout=KILL_WAIT_S)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.kill(self._pid, number)
        except ProcessLookupError:
            return

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._pid, number)
        except (ProcessLookupError, PermissionError):
            return  # the group is empty

    def _relay(self, pipe: IO[bytes]) -> None:
        chunk = os.read(pipe.fileno(), 1 << 16)
        if not chunk:
            asyncio.get_running_loop().remove_reader(pipe.fileno())
            pipe.close()
            return
        self.tail.feed(chunk)
        with suppress(BrokenPipeError):  # whoever read our output is gone; the engine shall not notice
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()

    def _reap(self) -> None:
        while (ended := _wait_any()) is not None:
            pid, status = ended
            if pid == self._pid and not self._ended.done():
                self._ended.set_result(os.waitstatus_to_exitcode(status))


def _wait_any() -> tuple[int, int] | None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None
