"""Reads a worker's HTTP/1.1 answers from bytes: a head find and an exact walk over the body's framing. No I/O.

Anything that two readers could understand differently is refused, so that a broken engine can never make one
client read another client's tokens.
"""

import re
from enum import Enum, auto
from functools import lru_cache
from typing import Protocol

from tandem_router.http1.messages import Headers, ResponseHead, connection_tokens, find_header

MAX_HEAD_BYTES = 64 * 1024
MAX_CHUNK_LINE_BYTES = 4 * 1024
MAX_TRAILER_BYTES = 16 * 1024

_HEADER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\r\n\0]*)")  # RFC 9110 §5.6.2 token, colon, value
KNOWN_LINE_BYTES = 128  # longer lines are parsed anew: they hardly come twice
_HEX = frozenset(b"0123456789abcdefABCDEF")


class FramingError(Exception):
    """The bytes are not one well-framed HTTP/1.1 response."""


class ResponseSink(Protocol):
    """Receives the parts of one response, in order."""

    def on_head(self, head: ResponseHead) -> None:
        """The final (non-1xx) head."""

    def on_body(self, data: bytes) -> None:
        """Some payload bytes, framing removed; never empty."""

    def on_end(self) -> None:
        """The message is complete."""


class _State(Enum):
    HEAD = auto()
    LENGTH = auto()
    CHUNK_LINE = auto()
    CHUNK_DATA = auto()
    CHUNK_END = auto()
    TRAILERS = auto()
    UNTIL_CLOSE = auto()
    DONE = auto()


class ResponseDecoder:
    """Decodes one response; make a new one for each."""

    __slots__ = ("_buffer", "_head_request", "_left", "_sink", "_state", "_trailer_bytes", "keep_alive")

    def __init__(self, sink: ResponseSink, *, head_request: bool = False) -> None:
        self._sink = sink
        self._head_request = head_request
        self._state = _State.HEAD
        self._buffer = b""
        self._left = 0
        self._trailer_bytes = 0
        self.keep_alive = False

    @property
    def is_done(self) -> bool:
        """The response has been read to its end."""
        return self._state is _State.DONE

    @property
    def is_untouched(self) -> bool:
        """Not one byte has been received."""
        return self._state is _State.HEAD and not self._buffer

    def feed(self, data: bytes) -> None:
        """Take received bytes; calls the sink.

        Raises:
            FramingError: the response is malformed, or bytes follow its end.
        """
        if self._state is _State.HEAD:
            data = self._read_head(self._buffer + data)
        if not data:
            return
        if self._state is _State.LENGTH:
            self._read_length(data)
        elif self._state is _State.UNTIL_CLOSE:
            self._sink.on_body(data)
        elif self._state is _State.DONE:
            raise FramingError("bytes after the end of the response")
        elif self._state is not _State.HEAD and not self._read_whole_chunk(data):
            self._read_chunks(self._buffer + data if self._buffer else data)

    def end_of_stream(self) -> None:
        """The peer closed the connection.

        Raises:
            FramingError: the response was not complete.
        """
        if self._state is _State.UNTIL_CLOSE:
            self._finish()
        elif self._state is not _State.DONE:
            raise FramingError("the connection closed in the middle of a response")

    def _read_head(self, data: bytes) -> bytes:
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end > MAX_HEAD_BYTES:
                if len(data) > MAX_HEAD_BYTES:
                    raise FramingError(f"response head over {MAX_HEAD_BYTES} bytes")
                self._buffer = data
                return b""
            head, data = parse_head(data[:end]), data[end + 4 :]
            if head.status >= 200:
                break
        self._buffer = b""
        self.keep_alive = head.keep_alive
        self._begin_body(head)
        return data

    def _begin_body(self, head: ResponseHead) -> None:
        length = body_length(head)
        self._sink.on_head(head)
        if self._head_request or head.status in (204, 304) or length == 0:
            self._finish()
        elif length is None:
            self._state = _State.CHUNK_LINE
        elif length < 0:
            self.keep_alive = False
            self._state = _State.UNTIL_CLOSE
        else:
            self._left = length
            self._state = _State.LENGTH

    def _read_length(self, data: bytes) -> None:
        if len(data) > self._left:
            raise FramingError("more bytes than Content-Length")
        self._left -= len(data)
        self._sink.on_body(data)
        if not self._left:
            self._finish()

    def _read_whole_chunk(self, data: bytes) -> bool:
        """The common case, one read that is one chunk, without the walk. False: not that case, nothing was taken."""
        if self._state is not _State.CHUNK_LINE or self._buffer:
            return False
        start = data.find(b"\r\n") + 2
        if not 3 <= start <= 18 or not _HEX.issuperset(data[: start - 2]):
            return False
        size = int(data[: start - 2], 16)
        if not size or len(data) != start + size + 2 or not data.endswith(b"\r\n"):
            return False
        self._sink.on_body(data[start:-2])
        return True

    def _read_chunks(self, data: bytes) -> None:
        self._buffer = b""
        payload: list[bytes] = []
        at, size = 0, len(data)
        while at < size and self._state is not _State.DONE:
            if self._state is _State.CHUNK_DATA:
                piece = data[at : at + self._left]
                payload.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _State.CHUNK_END
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._keep_partial_line(data[at:])
                break
            self._read_line(data[at : end + 1])
            at = end + 1
        if payload:
            self._sink.on_body(payload[0] if len(payload) == 1 else b"".join(payload))
        if self._state is _State.DONE:
            if at < size:
                raise FramingError("bytes after the last chunk")
            self._sink.on_end()

    def _keep_partial_line(self, line: bytes) -> None:
        if self._state is _State.CHUNK_END and line != b"\r":
            raise FramingError("a chunk is longer than its size")
        if len(line) > MAX_CHUNK_LINE_BYTES:
            raise FramingError(f"chunk header over {MAX_CHUNK_LINE_BYTES} bytes")
        self._buffer = line

    def _read_line(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise FramingError("a line of the chunked body does not end with CR LF")
        if self._state is _State.CHUNK_END:
            if line != b"\r\n":
                raise FramingError("a chunk is longer than its size")
            self._state = _State.CHUNK_LINE
        elif self._state is _State.CHUNK_LINE:
            self._left = parse_chunk_size(line[:-2])
            self._state = _State.CHUNK_DATA if self._left else _State.TRAILERS
        else:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                raise FramingError(f"trailers over {MAX_TRAILER_BYTES} bytes")
            if line == b"\r\n":
                self._state = _State.DONE

    def _finish(self) -> None:
        self._state = _State.DONE
        self._sink.on_end()


def parse_chunk_size(line: bytes) -> int:
    """Size of a chunk from its header line without CR LF; extensions are ignored.

    Raises:
        FramingError: not 1 to 15 hexadecimal digits, or an oversized line.
    """
    if len(line) > MAX_CHUNK_LINE_BYTES:
        raise FramingError(f"chunk header over {MAX_CHUNK_LINE_BYTES} bytes")
    digits = line.partition(b";")[0].rstrip(b" \t")
    if not 0 < len(digits) < 16 or not _HEX.issuperset(digits):
        raise FramingError("malformed chunk size")
    return int(digits, 16)


def parse_head(block: bytes) -> ResponseHead:
    """Status line and headers, without the empty line that ends them.

    Raises:
        FramingError: malformed, folded, or holding control characters.
    """
    status_line, *lines = block.split(b"\r\n")
    version, _, rest = status_line.partition(b" ")
    code = rest[:3]
    if (
        version not in (b"HTTP/1.1", b"HTTP/1.0")
        or not code.isdigit()
        or len(code) != 3
        or rest[3:4] not in (b"", b" ")
    ):
        raise FramingError("malformed status line")
    headers = [_known_line(line) if len(line) <= KNOWN_LINE_BYTES else parse_header_line(line) for line in lines]
    tokens = connection_tokens(headers)
    keep_alive = b"close" not in tokens and (version == b"HTTP/1.1" or b"keep-alive" in tokens)
    return ResponseHead(int(code), headers, keep_alive)


def parse_header_line(line: bytes) -> tuple[bytes, bytes]:
    """Name and value of one header line.

    Raises:
        FramingError: folded, nameless, or holding control characters.
    """
    found = _HEADER_LINE.fullmatch(line)
    if found is None:
        raise FramingError("malformed header line, or control characters in its value")
    name, value = found.groups()
    return name, value.strip(b" \t")


@lru_cache(maxsize=1024)
def _known_line(line: bytes) -> tuple[bytes, bytes]:
    """As `parse_header_line`: an engine sends the same few lines with every answer."""
    return parse_header_line(line)


def body_length(head: ResponseHead) -> int | None:
    """How the body is framed: its length, None for chunked, -1 for until the connection closes.

    Raises:
        FramingError: contradictory or unknown framing.
    """
    headers = head.headers
    lengths = {value for key, value in headers if len(key) == 14 and key.lower() == b"content-length"}
    coding = find_header(headers, b"transfer-encoding")
    if coding is not None:
        _require_only_chunked(headers, coding, lengths)
        return None
    if not lengths:
        return -1
    length = lengths.pop()
    if lengths or not length.isdigit() or len(length) > 18:
        raise FramingError("malformed or contradictory Content-Length")
    return int(length)


def _require_only_chunked(headers: Headers, coding: bytes, lengths: set[bytes]) -> None:
    count = sum(key.lower() == b"transfer-encoding" for key, _ in headers)
    if count > 1 or coding.lower() != b"chunked" or lengths:
        raise FramingError("Transfer-Encoding must be chunked, alone")
