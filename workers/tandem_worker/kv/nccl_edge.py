"""One session's chunks over NCCL: gathered into staging, sent when both ends are there, scattered from staging."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tandem_worker.kv.communicators import Communicator, Communicators
from tandem_worker.kv.cuda_library import CudaError
from tandem_worker.kv.device_memory import CopyStream, DeviceMemory, await_event
from tandem_worker.kv.lane import Lane, Turn
from tandem_worker.kv.layout import Piece
from tandem_worker.kv.line import Line
from tandem_worker.kv.memory import MemoryRangeError
from tandem_worker.kv.nccl_library import NcclError, NcclLibrary, Result
from tandem_worker.kv.rendezvous import Kind, Signal, expect, hear, say
from tandem_worker.kv.staging import Staging
from tandem_worker.kv.transport import ChunkLabel, TransportError

_SENDER, _RECEIVER = 0, 1  # ranks of every communicator
_WARM_UP = ChunkLabel(0, 0xFFFFFFFF, 4096)  # connections are made by the first operation
_LOOK_AROUND_S = 1e-3
_POLL_S = 1e-3
_QUIET_S = 1.0
_MAX_PREPARATIONS = 4

Post = Callable[[int, int, int, int, int], Result]


@dataclass(frozen=True)
class Gpu:
    """What the edges of one GPU share. `stream`: the one that communicators' kernels run on."""

    nccl: NcclLibrary
    memory: DeviceMemory
    lane: Lane
    turn: Turn
    stream: int
    staging: Staging
    communicators: Communicators
    open_timeout_s: float


class NcclEdge:
    """An Edge. At most one chunk is in flight; the one before is being scattered, or the next one gathered."""

    def __init__(self, gpu: Gpu, line: Line, number: int) -> None:
        """`number`: this edge's, never used before. Raises CudaError."""
        self._gpu = gpu
        self._line = line
        self._number = number
        self._cuda = gpu.memory.cuda
        self._copies = CopyStream(gpu.memory)
        self._posted_event = self._cuda.make_event()
        self._held: Communicator | None = None
        self._slots: set[int] = set()  # that are ours
        self._sending: int | None = None  # the slot of a chunk that is in flight
        self._scattering: deque[tuple[int, int]] = deque()  # (event, slot) of chunks that are being scattered
        self._has_turn = False
        self._is_posted = False
        self._is_aborted = False

    def send(self, label: ChunkLabel, pieces: Sequence[Piece], timeout_s: float) -> None:
        with self._guarded():
            deadline_s = time.monotonic() + timeout_s
            slot = self._take_slot(deadline_s)
            self._copies.gather(pieces, slot)
            self._copies.finish(deadline_s, self._check)
            for _ in range(_MAX_PREPARATIONS):
                if self._try_send(self._hold() or self._offer(slot), label, slot, time.monotonic() + timeout_s):
                    return
            raise TransportError("out_of_step", "the peer does not keep the communicator that it has accepted")

    def receive(self, label: ChunkLabel, pieces: Sequence[Piece], timeout_s: float) -> None:
        with self._guarded():
            communicator, chunk = self._await_label(timeout_s)
            if chunk != label:
                raise TransportError("out_of_step", "the peer is not at the chunk that was agreed on")
            slot = self._take_chunk(communicator, chunk, time.monotonic() + timeout_s)
            event = self._cuda.make_event()
            self._scattering.append((event, slot))
            self._copies.scatter(slot, pieces)
            self._copies.record(event)

    def settle(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        with self._guarded():
            self._finish_sending(deadline_s)
            while self._scattering:
                self._finish_scattering(deadline_s)
        if self._held is not None:
            self._held = None
            self._gpu.communicators.rest(self._number)

    def abort(self) -> None:
        self._is_aborted = True
        self._line.abort()

    def close(self) -> None:
        self._line.close()
        self._break()
        self._cuda.destroy_event(self._posted_event)
        self._copies.close()

    # Sending

    def _offer(self, slot: int) -> Communicator:
        """Open a communicator together with the peer, and warm it up with some of what lies in `slot`."""
        gpu, deadline_s = self._gpu, time.monotonic() + self._gpu.open_timeout_s
        epoch = gpu.communicators.reserve(self._number, deadline_s, self._check)
        unique_id = gpu.lane.call(gpu.nccl.make_unique_id)
        say(self._line, Signal(Kind.OFFER, epoch, unique_id=unique_id), deadline_s)
        expect(self._line, Kind.ACCEPT, epoch, deadline_s)
        communicator = self._join(_SENDER, unique_id, deadline_s)
        if not self._try_send(communicator, _WARM_UP, slot, deadline_s):
            raise TransportError("out_of_step", "the peer does not know the communicator that it has just joined")
        self._finish_posted(deadline_s)
        self._sending = None  # the slot is still needed
        return communicator

    def _try_send(self, communicator: Communicator, label: ChunkLabel, slot: int, deadline_s: float) -> bool:
        """Post what lies in `slot`; False when the peer has given up this communicator."""
        say(self._line, Signal(Kind.LABEL, communicator.epoch, label), deadline_s)
        answer = hear(self._line, deadline_s)
        self._finish_sending(deadline_s)  # the chunk before
        if (answer.kind, answer.epoch) == (Kind.STALE, communicator.epoch):
            self._drop()
            return False
        if (answer.kind, answer.epoch) != (Kind.GO, communicator.epoch):
            raise TransportError("out_of_step", f"GO was due; {answer.kind.name} came")
        self._take_turn(deadline_s)
        say(self._line, Signal(Kind.POST, communicator.epoch), deadline_s)
        self._sending = slot
        self._post(self._gpu.nccl.send, communicator, (slot, label.size_bytes, _RECEIVER), deadline_s)
        return True

    def _finish_sending(self, deadline_s: float) -> None:
        if self._sending is not None:
            self._finish_posted(deadline_s)
            self._give_slot(self._sending)
            self._sending = None

    # Receiving

    def _await_label(self, timeout_s: float) -> tuple[Communicator, ChunkLabel]:
        """Hear what the peer has ready, and get there whatever is needed for it."""
        for _ in range(_MAX_PREPARATIONS):
            deadline_s = time.monotonic() + timeout_s
            signal = hear(self._line, deadline_s)
            communicator = self._hold()
            if signal.kind is Kind.OFFER:
                self._accept(signal)
            elif signal.kind is not Kind.LABEL:
                raise TransportError("out_of_step", f"LABEL was due; {signal.kind.name} came")
            elif communicator is not None and communicator.epoch == signal.epoch:
                return communicator, signal.chunk
            else:
                self._drop()
                say(self._line, Signal(Kind.STALE, signal.epoch), deadline_s)
        raise TransportError("out_of_step", "the peer offers communicators and does not use them")

    def _accept(self, offer: Signal) -> None:
        deadline_s = time.monotonic() + self._gpu.open_timeout_s
        self._drop()
        self._gpu.communicators.reserve(self._number, deadline_s, self._check, offer.epoch)
        say(self._line, Signal(Kind.ACCEPT, offer.epoch), deadline_s)
        communicator = self._join(_RECEIVER, offer.unique_id, deadline_s)
        signal = hear(self._line, deadline_s)
        if (signal.kind, signal.epoch, signal.chunk) != (Kind.LABEL, offer.epoch, _WARM_UP):
            raise TransportError("out_of_step", f"a warm-up was due; {signal.kind.name} came")
        self._give_slot(self._take_chunk(communicator, _WARM_UP, deadline_s))

    def _take_chunk(self, communicator: Communicator, chunk: ChunkLabel, deadline_s: float) -> int:
        """Receive a chunk that the peer has ready; returns its slot."""
        slot = self._take_slot(deadline_s)
        self._take_turn(deadline_s)
        say(self._line, Signal(Kind.GO, communicator.epoch), deadline_s)
        expect(self._line, Kind.POST, communicator.epoch, deadline_s)
        self._post(self._gpu.nccl.receive, communicator, (slot, chunk.size_bytes, _SENDER), deadline_s)
        self._finish_posted(deadline_s)
        return slot

    def _finish_scattering(self, deadline_s: float) -> None:
        event, slot = self._scattering[0]
        await_event(self._cuda, event, deadline_s, lambda: None)  # local, and needs no peer: never cut short
        self._scattering.popleft()
        self._cuda.destroy_event(event)
        self._give_slot(slot)

    # Both

    def _hold(self) -> Communicator | None:
        self._held = self._held or self._gpu.communicators.use(self._number)
        return self._held

    def _join(self, rank: int, unique_id: bytes, deadline_s: float) -> Communicator:
        self._held = self._gpu.communicators.join(self._number, rank, unique_id, deadline_s, self._look_around)
        return self._held

    def _drop(self) -> None:
        """Nothing of it is in flight."""
        self._held = None
        self._gpu.communicators.drop(self._number, lambda: None, is_working=False)

    def _take_slot(self, deadline_s: float) -> int:
        staging = self._gpu.staging
        if len(self._scattering) > 1:
            self._finish_scattering(deadline_s)
        if (slot := staging.take_now()) is None:
            self._finish_sending(deadline_s)  # who waits for a slot must hold none, or all might wait for one another
            while self._scattering:
                self._finish_scattering(deadline_s)
            slot = staging.take(deadline_s, self._check)
        self._slots.add(slot)
        return slot

    def _give_slot(self, slot: int) -> None:
        self._slots.remove(slot)
        self._gpu.staging.give(slot)

    def _take_turn(self, deadline_s: float) -> None:
        self._gpu.turn.take(deadline_s, self._check)
        self._has_turn = True

    def _post(self, post: Post, communicator: Communicator, chunk: tuple[int, int, int], deadline_s: float) -> None:
        """Enqueue, and see that it is enqueued: NCCL may do that in a thread of its own. `chunk`: slot, bytes, peer."""
        lane, handle = self._gpu.lane, communicator.handle
        self._is_posted = True
        state = lane.call(post, *chunk, handle, self._gpu.stream)
        while state is Result.IN_PROGRESS:
            self._look_around()
            if time.monotonic() > deadline_s:
                raise TransportError("chunk_timeout", "an operation was not enqueued within the chunk's deadline")
            time.sleep(_POLL_S)
            state = lane.call(self._gpu.nccl.fetch_state, handle)
        if state is not Result.SUCCESS:
            raise TransportError("nccl_failed", f"the communicator failed: {state.name.lower()}")
        lane.call(self._cuda.record, self._posted_event, self._gpu.stream)

    def _finish_posted(self, deadline_s: float) -> None:
        await_event(self._cuda, self._posted_event, deadline_s, _Watch(self._look_around_twice))
        self._is_posted = self._has_turn = False
        self._gpu.turn.give()

    def _check(self) -> None:
        if self._is_aborted:
            raise TransportError("aborted", "the session ended")

    def _look_around(self) -> None:
        """NCCL tells nobody that a peer has died; the line does."""
        self._check()
        if self._line.is_ended():
            raise TransportError("peer_eof", "the peer closed the data connection")

    def _look_around_twice(self) -> None:
        self._look_around()
        if self._held is not None:
            state = self._gpu.lane.call(self._gpu.nccl.fetch_state, self._held.handle)
            if state not in (Result.SUCCESS, Result.IN_PROGRESS):
                raise TransportError("nccl_failed", f"the communicator failed: {state.name.lower()}")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """After any failure the edge holds nothing that a kernel might still use, and no communicator."""
        try:
            yield
        except (TransportError, MemoryRangeError):
            self._break()
            raise
        except NcclError as error:
            self._break()
            raise TransportError("nccl_failed", str(error)) from error
        except CudaError as error:
            self._break()
            raise TransportError("cuda_failed", str(error)) from error

    def _break(self) -> None:
        """Hand what may still be in use to the end of the communicator, which gives it back when nothing is."""
        scattering = {slot for _, slot in self._scattering}
        slots, has_turn, gpu = self._slots - scattering, self._has_turn, self._gpu
        is_quiet = not slots or self._are_copies_quiet()

        def give_back() -> None:
            for slot in slots if is_quiet else ():
                gpu.staging.give(slot)
            if has_turn:
                gpu.turn.give()

        is_working, self._slots = self._is_posted, scattering
        self._held = self._sending = None
        self._has_turn = self._is_posted = False
        gpu.communicators.drop(self._number, give_back, is_working=is_working)

    def _are_copies_quiet(self) -> bool:
        try:
            self._copies.finish(time.monotonic() + _QUIET_S, lambda: None)
        except (CudaError, TransportError):
            return False
        return True


class _Watch:
    """Calls a check now and then rather than at every poll."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._next_s = time.monotonic() + _LOOK_AROUND_S

    def __call__(self) -> None:
        if (now_s := time.monotonic()) >= self._next_s:
            self._next_s = now_s + _LOOK_AROUND_S
            self._check()
