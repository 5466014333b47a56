"""The thread that moves one session's bytes, one transfer after the other."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from tandem_worker.kv.layout import Chunk, HeadSlice, KvLayout, LayoutError, chunk_pieces, plan_chunks
from tandem_worker.kv.memory import KvMemory, MemoryRangeError
from tandem_worker.kv.transport import ChunkLabel, Edge, TransportError


@dataclass(frozen=True, slots=True)
class Order:
    """Move these blocks; `is_send` from here, else to here."""

    transfer: int
    blocks: tuple[tuple[int, ...], ...]
    heads: tuple[HeadSlice, ...]
    chunk_bytes: int
    is_send: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of an order: `chunks` whole chunks moved, then `fault` (None: all did)."""

    transfer: int
    chunks: int
    size_bytes: int
    seconds: float
    fault: str | None


@dataclass(frozen=True)
class Pace:
    """Deadlines of one chunk, and the faults that tests inject."""

    chunk_timeout_s: float
    floor_bytes_per_s: float
    delay_s_for_test: float = 0
    corrupt_for_test: KvMemory | None = None

    def chunk_deadline_s(self, size_bytes: int) -> float:
        return self.chunk_timeout_s + size_bytes / self.floor_bytes_per_s


@dataclass(frozen=True)
class Reports:
    """Whom a data path tells, from its own thread."""

    opened: Callable[[str | None], None]  # once; None when the edge is up, else the fault
    moved: Callable[[Moved], None]  # exactly once per order given
    ended: Callable[[], None]  # last


class DataPath:
    """Opens an edge, then serves orders until closed."""

    def __init__(self, layout: KvLayout, pace: Pace, open_edge: Callable[[], Edge], reports: Reports) -> None:
        self._layout = layout
        self._pace = pace
        self._open_edge = open_edge
        self._reports = reports
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._edge: Edge | None = None
        self._is_aborted = False
        self._thread = threading.Thread(target=self._run, name="tandem-kv-data", daemon=True)
        self._thread.start()

    def give(self, order: Order) -> None:
        self._orders.put(order)

    def abort(self) -> None:
        """A running order fails at once, and every later one."""
        with self._lock:
            self._is_aborted = True
            edge = self._edge
        if edge is not None:
            edge.abort()

    def close(self) -> None:
        """Abort, and end the thread once it has answered what it was given."""
        self.abort()
        self._orders.put(None)

    def join(self, timeout_s: float) -> None:
        """After `close`: wait until the thread has made its last report."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        edge, fault = self._open()
        self._reports.opened(fault)
        while (order := self._orders.get()) is not None:
            self._reports.moved(self._serve(edge, order))
        if edge is not None:
            edge.close()
        self._reports.ended()

    def _open(self) -> tuple[Edge | None, str | None]:
        try:
            edge = self._open_edge()
        except TransportError as error:
            return None, error.reason
        with self._lock:
            self._edge = edge
            if self._is_aborted:
                edge.abort()
        return edge, None

    def _serve(self, edge: Edge | None, order: Order) -> Moved:
        started_s = time.monotonic()
        done: list[Chunk] = []
        fault: str | None = "aborted"  # the session ended before the transfer began
        if edge is not None and not self._is_aborted:
            fault = self._move_all(edge, order, done)
        if edge is not None and done:
            fault = self._settle(edge, done, fault)
        if not order.is_send and self._pace.corrupt_for_test is not None:
            for chunk in done:
                self._pace.corrupt_for_test.erase(chunk_pieces(self._layout, chunk, order.heads))
        size_bytes = sum(chunk.size_bytes for chunk in done)
        return Moved(order.transfer, len(done), size_bytes, time.monotonic() - started_s, fault)

    def _move_all(self, edge: Edge, order: Order, done: list[Chunk]) -> str | None:
        """Adds to `done` what was moved; returns why it is not all."""
        try:
            for chunk in plan_chunks(self._layout, order.blocks, order.heads, order.chunk_bytes):
                self._move(edge, order, chunk)
                done.append(chunk)
        except TransportError as error:
            return error.reason
        except (LayoutError, MemoryRangeError):
            return "bad_plan"
        return None

    def _settle(self, edge: Edge, done: list[Chunk], fault: str | None) -> str | None:
        """Chunks that cannot be said to be where they belong were not moved."""
        try:
            edge.settle(self._pace.chunk_deadline_s(done[-1].size_bytes))
        except TransportError as error:
            done.clear()
            return fault or error.reason
        return fault

    def _move(self, edge: Edge, order: Order, chunk: Chunk) -> None:
        pieces = chunk_pieces(self._layout, chunk, order.heads)
        label = ChunkLabel(order.transfer, chunk.index, chunk.size_bytes)
        timeout_s = self._pace.chunk_deadline_s(chunk.size_bytes)
        if not order.is_send:
            edge.receive(label, pieces, timeout_s)
            return
        time.sleep(self._pace.delay_s_for_test)
        edge.send(label, pieces, timeout_s)
