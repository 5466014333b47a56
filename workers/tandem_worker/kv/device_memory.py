"""KV memory on a GPU: gathered from, and scattered to, by copies on a stream of one's own."""

import ctypes
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from tandem_worker.kv.cuda_library import Copy, CudaError, CudaLibrary
from tandem_worker.kv.layout import Piece
from tandem_worker.kv.memory import Ranges
from tandem_worker.kv.transport import TransportError

_FIRST_NAP_S, _LONGEST_NAP_S = 20e-6, 500e-6
_ERASE_TIMEOUT_S = 5.0


class DeviceMemory:
    """The registered ranges of one device, and the engine's word on when they may be written to."""

    def __init__(self, cuda: CudaLibrary, device: int, ranges: Iterable[tuple[int, int]]) -> None:
        """`ranges`: (address, size in bytes). Raises CudaError."""
        self.cuda = cuda
        self.device = device
        self._ranges = Ranges(ranges)
        cuda.use_device(device)
        self._engine_mark = cuda.make_event()

    def check(self, pieces: Sequence[Piece]) -> None:
        """Raises MemoryRangeError."""
        for piece in pieces:
            self._ranges.find(piece)

    def mark(self, engine_stream: int) -> None:
        """In the engine's thread, when blocks are handed over to be filled: steps that run still may write to them.

        The engine frees a request's blocks while a step that it has enqueued ahead still writes to them; what fills
        them for another request must come after.
        """
        self.cuda.record(self._engine_mark, engine_stream)

    def await_engine(self, stream: int) -> None:
        """What is enqueued on `stream` from now on runs after the engine's steps before the last mark."""
        self.cuda.await_on_stream(stream, self._engine_mark)

    def erase(self, pieces: Sequence[Piece]) -> None:
        self.check(pieces)
        with CopyStream(self) as stream:
            stream.erase(pieces)
            stream.finish(time.monotonic() + _ERASE_TIMEOUT_S, lambda: None)


class CopyStream:
    """A stream for copies, of one thread. A context manager, for short uses."""

    def __init__(self, memory: DeviceMemory) -> None:
        """Raises CudaError."""
        self._memory = memory
        self._cuda = memory.cuda
        self._cuda.use_device(memory.device)
        self._stream = self._cuda.make_stream()
        self._event = self._cuda.make_event()

    def __enter__(self) -> "CopyStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def gather(self, pieces: Sequence[Piece], target: int) -> None:
        """Enqueue: the bytes of `pieces`, in order, to `target`. Raises MemoryRangeError, CudaError."""
        self._memory.check(pieces)
        copies = [(target + offset, piece.address, piece.size_bytes) for offset, piece in _with_offsets(pieces)]
        self._cuda.copy(copies, self._stream)

    def scatter(self, source: int, pieces: Sequence[Piece]) -> None:
        """Enqueue: the reverse, after what the engine has enqueued. Raises MemoryRangeError, CudaError."""
        self._memory.check(pieces)
        self._memory.await_engine(self._stream)
        copies: list[Copy] = [
            (piece.address, source + offset, piece.size_bytes) for offset, piece in _with_offsets(pieces)
        ]
        self._cuda.copy(copies, self._stream)

    def erase(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self._cuda.erase(piece.address, piece.size_bytes, self._stream)

    def record(self, event: int) -> None:
        self._cuda.record(event, self._stream)

    def finish(self, deadline_s: float, check: Callable[[], None]) -> None:
        """Wait for all that was enqueued. Raises TransportError, CudaError, and what `check` raises."""
        self.record(self._event)
        await_event(self._cuda, self._event, deadline_s, check)

    def close(self) -> None:
        self._cuda.destroy_event(self._event)
        self._cuda.destroy_stream(self._stream)


class PinnedWindow:
    """A Window through pinned host memory: how device memory gets onto a socket."""

    def __init__(self, memory: DeviceMemory, timeout_s: float) -> None:
        """`timeout_s`: what a chunk's copy may take. Raises TransportError."""
        self._cuda = memory.cuda
        self._timeout_s = timeout_s
        self._address = self._size = 0
        with _as_transport_error():
            self._stream = CopyStream(memory)

    def outgoing(self, pieces: Sequence[Piece]) -> list[memoryview]:
        with _as_transport_error():
            views = self.incoming(pieces)
            self._stream.gather(pieces, self._address)
            self._finish()
        return views

    def incoming(self, pieces: Sequence[Piece]) -> list[memoryview]:
        size = sum(piece.size_bytes for piece in pieces)
        with _as_transport_error():
            self._grow(size)
        return [memoryview((ctypes.c_char * size).from_address(self._address)).cast("B")]

    def deliver(self, pieces: Sequence[Piece]) -> None:
        with _as_transport_error():
            self._stream.scatter(self._address, pieces)
            self._finish()

    def close(self) -> None:
        self._stream.close()
        self._release()

    def _finish(self) -> None:
        self._stream.finish(time.monotonic() + self._timeout_s, lambda: None)

    def _grow(self, size: int) -> None:
        if size > self._size:
            self._release()
            self._address, self._size = self._cuda.allocate_pinned(size), size

    def _release(self) -> None:
        if self._size:
            self._cuda.free_pinned(self._address)
            self._address = self._size = 0


def await_event(cuda: CudaLibrary, event: int, deadline_s: float, check: Callable[[], None]) -> None:
    """Poll until the event is done: what cannot be interrupted must never be waited for otherwise.

    Raises TransportError at the deadline, CudaError, and what `check` raises.
    """
    nap_s = _FIRST_NAP_S
    while not cuda.is_done(event):
        check()
        if time.monotonic() > deadline_s:
            raise TransportError("chunk_timeout", "a copy or a kernel did not end within the chunk's deadline")
        time.sleep(nap_s)
        nap_s = min(2 * nap_s, _LONGEST_NAP_S)


@contextmanager
def _as_transport_error() -> Iterator[None]:
    try:
        yield
    except CudaError as error:
        raise TransportError("cuda_failed", str(error)) from error


def _with_offsets(pieces: Sequence[Piece]) -> Iterator[tuple[int, Piece]]:
    offset = 0
    for piece in pieces:
        yield offset, piece
        offset += piece.size_bytes
