"""The clients' parser under any bytes: no traceback, no hang, bounded memory, and no split changes a thing."""

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tandem_router.http1.inbound import ClientConnection
from tandem_router.http1.listener import Listener
from tandem_router.http1.messages import Request
from tandem_router.http1.strict import Limits
from tandem_router.http1.writer import ResponseWriter

HEAD = b"POST /v1/x HTTP/1.1\r\nHost: r\r\n"
CORPUS = (
    HEAD + b"Content-Length: 5\r\n\r\nabcde",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /a HTTP/1.1\r\nHost: r\r\n\r\nGET /b HTTP/1.1\r\nHost: r\r\n\r\n",
    b"GET /a HTTP/1.0\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: r\r\nHost: s\r\n\r\n",
    b"CONNECT r:1 HTTP/1.1\r\nHost: r\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)
LIMITS = Limits(header_bytes=2048, body_bytes=256)

Edit = tuple[int, int, bytes]  # at, how many bytes go, what comes
pieces = st.sampled_from(
    (b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"0", b"ffffffffffffffffff", b"\r\n\r\n", b"chunked", b"\x80")
)
edits = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 8), pieces | st.binary(max_size=6)), max_size=6)
inputs = st.lists(st.sampled_from(CORPUS), min_size=1, max_size=3).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=12)


class Wire(asyncio.Transport):
    """Takes what is written; never sends."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Nobody reads."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is held."""

    def pause_reading(self) -> None:
        """What is fed comes anyway."""

    def resume_reading(self) -> None:
        """It always does."""


@dataclass
class Seen:
    """What came of some bytes."""

    requests: list[tuple[bytes, str, bytes]] = field(default_factory=list)
    statuses: list[bytes] = field(default_factory=list)


async def feed(parts: list[bytes]) -> Seen:
    """Give a connection these reads, then let it answer."""
    seen, wire = Seen(), Wire()

    async def handle(request: Request, writer: ResponseWriter) -> None:
        seen.requests.append((request.method, request.path, request.body))
        writer.send(200, [], b"")

    connection = ClientConnection(Listener(handle, LIMITS))
    connection.connection_made(wire)
    for part in parts:
        if wire.is_closed:
            break
        connection.data_received(part)
        assert sum(map(len, connection._body)) <= LIMITS.body_bytes + len(part)
        assert sum(len(name) + len(value) for name, value in connection._headers) <= LIMITS.header_bytes + len(part)
    for _ in range(40):
        await asyncio.sleep(0)
    assert connection._task is None
    assert not connection._queue
    seen.statuses = [line.split(b" ")[1] for line in wire.written.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return seen


def mutate(raw: bytes, changes: list[Edit]) -> bytes:
    for at, gone, come in changes:
        at %= len(raw) + 1
        raw = raw[:at] + come + raw[at + gone :]
    return raw


@given(inputs, edits, cuts)
def test_mutated_requests_end_in_an_answer_or_a_typed_refusal_however_they_are_split(raw, changes, where):
    raw = mutate(raw, changes)
    whole = asyncio.run(feed([raw]))
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in where), len(raw)]
    split = asyncio.run(feed([raw[start:end] for start, end in pairwise(edges) if start < end]))
    assert split.requests == whole.requests
    final = [status for status in whole.statuses if status != b"100"]
    assert final == [status for status in split.statuses if status != b"100"]
    assert len(final) <= len(whole.requests) + 1
    assert set(final) <= {b"200", b"400", b"413", b"431"}


@given(st.binary(max_size=400), cuts)
def test_random_bytes_are_refused_or_waited_for(raw, where):
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in where), len(raw)]
    seen = asyncio.run(feed([raw[start:end] for start, end in pairwise(edges) if start < end]))
    assert set(seen.statuses) <= {b"200", b"400", b"413", b"431"}
