"""Container logs in the CRI's line format: `2026-01-31T12:00:00.123456789Z stdout F text`."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from cluster.process_node.objects import from_rfc3339

LONGEST_LINE_BYTES = 16_384
FILE_LIMIT_BYTES = 10 * 2**20
POLL_S = 0.2


class LogQueryError(ValueError):
    """An option of a log request that makes no sense."""


@dataclass(frozen=True)
class LogOptions:
    follow: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: datetime | None = None


def parse_options(query: Mapping[str, str], now: datetime) -> LogOptions:
    """The options of a kubelet's containerLogs URL. Raises LogQueryError."""
    if "sinceSeconds" in query and "sinceTime" in query:
        raise LogQueryError("at most one of sinceSeconds and sinceTime may be given")
    return LogOptions(
        follow=_flag(query, "follow"),
        timestamps=_flag(query, "timestamps"),
        tail_lines=_count(query, "tailLines", 0),
        limit_bytes=_count(query, "limitBytes", 1),
        since=_since(query, now),
    )


def format_line(moment: datetime, stream: str, text: bytes, *, whole: bool = True) -> bytes:
    stamp = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
    return f"{stamp} {stream} {'F' if whole else 'P'} ".encode() + text + b"\n"


class LogFile:
    """One run's log, with at most one rotated predecessor beside it."""

    def __init__(self, path: Path, limit_bytes: int = FILE_LIMIT_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._limit_bytes = limit_bytes
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._size_bytes = path.stat().st_size

    def write(self, line: bytes) -> None:
        if self._size_bytes + len(line) > self._limit_bytes:
            self._rotate()
        self._file.write(line)
        self._size_bytes += len(line)

    def close(self) -> None:
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        self._path.replace(rotated(self._path))
        self._file = self._path.open("ab", buffering=0)
        self._size_bytes = 0


def rotated(path: Path) -> Path:
    return path.with_name(path.name + ".old")


class LogPipe(asyncio.Protocol):
    """Turns what a container writes to one stream into log lines."""

    def __init__(self, file: LogFile, stream: str, now: Callable[[], datetime]) -> None:
        self._file = file
        self._stream = stream
        self._now = now
        self._rest = b""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._write(line)
        while len(self._rest) > LONGEST_LINE_BYTES:
            part, self._rest = self._rest[:LONGEST_LINE_BYTES], self._rest[LONGEST_LINE_BYTES:]
            self._write(part, whole=False)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._rest:
            self._write(self._rest, whole=False)
        if not self.closed.done():
            self.closed.set_result(None)

    def _write(self, text: bytes, *, whole: bool = True) -> None:
        self._file.write(format_line(self._now(), self._stream, text, whole=whole))


async def connect_pipe(
    descriptor: int, file: LogFile, stream: str, now: Callable[[], datetime]
) -> tuple[asyncio.ReadTransport, asyncio.Future[None]]:
    """Reads the pipe into the file; the future is done when its other ends are closed."""
    transport, protocol = await asyncio.get_running_loop().connect_read_pipe(
        lambda: LogPipe(file, stream, now), os.fdopen(descriptor, "rb", buffering=0)
    )
    return transport, protocol.closed


class _Tail:
    """Reads on where it stopped, also over a rotation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        self._rest = b""

    def new_lines(self) -> list[bytes]:
        data = self._rest + self._file.read()
        if self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino:
            self.close()
            self._file = self._path.open("rb")
            data += self._file.read()
        *lines, self._rest = data.split(b"\n")
        return lines

    def close(self) -> None:
        self._file.close()


def stored_lines(path: Path) -> list[bytes]:
    """All whole lines that are kept of one run, oldest first."""
    data = b"".join(file.read_bytes() for file in (rotated(path), path) if file.exists())
    return data.split(b"\n")[:-1]


def select_lines(lines: Iterable[bytes], options: LogOptions) -> Iterator[bytes]:
    """The lines that a reader asked for, as it shall see them."""
    chosen: Iterable[bytes] = (line for line in lines if options.since is None or _moment(line) >= options.since)
    if options.tail_lines is not None:
        chosen = deque(chosen, maxlen=options.tail_lines)
    return (render_line(line, options) for line in chosen)


def render_line(line: bytes, options: LogOptions) -> bytes:
    stamp, _stream, tag, text = line.split(b" ", 3)
    end = b"\n" if tag == b"F" else b""
    return (stamp + b" " + text if options.timestamps else text) + end


def tail_text(path: Path, lines: int, limit_bytes: int) -> str:
    """The end of a log, for a termination message."""
    text = b"".join(select_lines(stored_lines(path), LogOptions(tail_lines=lines))) if path.exists() else b""
    return text[-limit_bytes:].decode(errors="replace")


async def read_log(
    path: Path, options: LogOptions, is_growing: Callable[[], bool], poll_s: float = POLL_S
) -> AsyncIterator[bytes]:
    """What is stored, then, with follow, what comes until is_growing() says that no more will."""
    left = options.limit_bytes
    async for text in _all_text(path, options, is_growing, poll_s):
        if left is not None:
            text, left = text[:left], left - len(text[:left])
        yield text
        if left == 0:
            return


async def _all_text(
    path: Path, options: LogOptions, is_growing: Callable[[], bool], poll_s: float
) -> AsyncIterator[bytes]:
    tail = _Tail(path)
    try:
        older = rotated(path).read_bytes().split(b"\n")[:-1] if rotated(path).exists() else []
        for text in select_lines([*older, *tail.new_lines()], options):
            yield text
        growing = options.follow
        while growing:
            await asyncio.sleep(poll_s)
            growing = is_growing()  # asked before reading: the last lines come with the "no"
            for text in select_lines(tail.new_lines(), replace(options, tail_lines=None)):
                yield text
    finally:
        tail.close()


def _moment(line: bytes) -> datetime:
    stamp = line[:26].decode() + "+00:00"  # microseconds are all that datetime keeps
    return datetime.fromisoformat(stamp)


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise LogQueryError(f"{name} must be true or false, not {text!r}")
    return text == "true"


def _count(query: Mapping[str, str], name: str, least: int) -> int | None:
    if name not in query:
        return None
    text = query[name]
    if not text.isdigit() or int(text) < least:
        raise LogQueryError(f"{name} must be a whole number of at least {least}, not {text!r}")
    return int(text)


def _since(query: Mapping[str, str], now: datetime) -> datetime | None:
    seconds = _count(query, "sinceSeconds", 1)
    if seconds is not None:
        return now - timedelta(seconds=seconds)
    if "sinceTime" not in query:
        return None
    try:
        return from_rfc3339(query["sinceTime"])
    except ValueError as error:
        raise LogQueryError(f"sinceTime: {error}") from error
