"""The `tcp` transport: scatter/gather sockets, straight from and into KV memory where that is the host's."""

import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from tandem_worker.kv.layout import Piece
from tandem_worker.kv.line import Line
from tandem_worker.kv.transport import ChunkLabel, Edge, TransportError
from tandem_worker.kv.windows import Window

# magic, transfer, chunk, bytes of payload
_LABEL = struct.Struct("!4sQIQ")
_LABEL_MAGIC = b"TKV1"


class TcpEdge:
    """Chunks on a line, each after its label."""

    def __init__(self, line: Line, window: Window) -> None:
        self._line = line
        self._window = window

    def send(self, label: ChunkLabel, pieces: Sequence[Piece], timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        header = _LABEL.pack(_LABEL_MAGIC, label.transfer, label.index, label.size_bytes)
        self._line.send([memoryview(header), *self._window.outgoing(pieces)], deadline_s)

    def receive(self, label: ChunkLabel, pieces: Sequence[Piece], timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        header = bytearray(_LABEL.size)
        self._line.receive([memoryview(header)], deadline_s)
        expected = (_LABEL_MAGIC, label.transfer, label.index, label.size_bytes)
        if _LABEL.unpack(header) != expected:
            raise TransportError("out_of_step", "the data stream is not at the chunk that was agreed on")
        self._line.receive(self._window.incoming(pieces), deadline_s)
        self._window.deliver(pieces)

    def settle(self, timeout_s: float) -> None:
        """Every chunk was settled when its call returned."""

    def abort(self) -> None:
        self._line.abort()

    def close(self) -> None:
        self._line.close()
        self._window.close()


class TcpTransport:
    """Needs nothing but memory; `open_window` gives each edge its own way into it."""

    def __init__(self, open_window: Callable[[], Window]) -> None:
        self._open_window = open_window

    def open_edge(self, line: Line) -> Edge:
        try:
            return TcpEdge(line, self._open_window())
        except TransportError:
            line.close()
            raise

    def tick(self) -> None:
        """Idle lines cost nothing worth giving back."""

    def report(self) -> dict[str, Any]:
        return {}

    def stop(self) -> None:
        """Edges held all there was."""
