"""The communicators of a GPU: made when an edge first moves something, kept while it is used, given up when idle."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tandem_worker.kv.edge_table import EdgeTable
from tandem_worker.kv.endings import Endings
from tandem_worker.kv.lane import Lane
from tandem_worker.kv.nccl_library import NcclError, NcclLibrary, Result, build_config
from tandem_worker.kv.staging import Staging
from tandem_worker.kv.transport import TransportError

_POLL_S = 0.002
_SLICE_S = 0.02


@dataclass(frozen=True, slots=True)
class Communicator:
    """`epoch` tells it from those that the same edge had before."""

    handle: int
    epoch: int


class Communicators:
    """Thread-safe. What an edge holds between `use` or `join` and `rest` or `drop` is not taken from it."""

    def __init__(self, nccl: NcclLibrary, lane: Lane, endings: Endings, table: EdgeTable, staging: Staging) -> None:
        self._nccl = nccl
        self._lane = lane
        self._endings = endings
        self._table = table
        self._staging = staging
        self._changed = threading.Condition(threading.RLock())
        self._open: dict[int, Communicator] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def memory_bytes(self) -> int:
        with self._changed:
            return self._table.memory_bytes

    def use(self, edge: int) -> Communicator | None:
        """The edge's communicator, if it still has one."""
        with self._changed:
            return self._open[edge] if self._table.begin_use(edge) is not None else None

    def rest(self, edge: int) -> None:
        """The edge does not need it for now; another may take its place."""
        with self._changed:
            self._table.end_use(edge, time.monotonic())
            self._changed.notify_all()

    def reserve(self, edge: int, deadline_s: float, check: Callable[[], None], epoch: int | None = None) -> int:
        """Take a place, if need be from whoever has not used its own for longest; returns the epoch.

        Raises TransportError when all are in use until the deadline, and what `check` raises meanwhile.
        """
        while (reserved := self._try_reserve(edge, epoch)) is None:
            check()
            if time.monotonic() > deadline_s:
                raise TransportError("nccl_edges_full", "every communicator of this GPU is in use")
        self._end_idle(reserved[1])
        return reserved[0]

    def join(
        self, edge: int, rank: int, unique_id: bytes, deadline_s: float, check: Callable[[], None]
    ) -> Communicator:
        """Come up together with the peer, after `reserve`. Raises TransportError, and what `check` raises."""
        epoch = self._table.find_epoch(edge)
        handle, state = self._lane.call(self._nccl.init_rank, unique_id, rank, build_config())
        try:
            while state is Result.IN_PROGRESS:
                check()
                if time.monotonic() > deadline_s:
                    raise TransportError("nccl_open_timeout", "the communicator did not come up within its deadline")
                time.sleep(_POLL_S)
                state = self._lane.call(self._nccl.fetch_state, handle)
            if state is not Result.SUCCESS:
                raise TransportError("nccl_open_failed", f"the communicator did not come up: {state.name.lower()}")
            memory_bytes = self._lane.call(self._equip, handle)
        except (TransportError, NcclError):
            self._forget(edge)
            self._endings.end(handle, lambda: None, is_working=False)
            raise
        communicator = Communicator(handle, epoch)
        with self._changed:
            self._open[edge] = communicator
            self._table.on_opened(edge, memory_bytes)
        return communicator

    def drop(self, edge: int, on_ended: Callable[[], None], *, is_working: bool) -> None:
        """The edge is done with its communicator, or it failed; `on_ended`: no kernel of it runs any more."""
        with self._changed:
            self._forget(edge)
            communicator = self._open.pop(edge, None)
        if communicator is None:
            on_ended()
        else:
            self._endings.end(communicator.handle, on_ended, is_working=is_working)

    def tick(self) -> None:
        """Give up what has long been idle."""
        with self._changed:
            overdue = [self._open.pop(edge) for edge in self._table.plan_idle(time.monotonic())]
        self._end_idle(overdue)

    def _try_reserve(self, edge: int, epoch: int | None) -> tuple[int, list[Communicator]] | None:
        """The epoch, and the communicators that must go for it."""
        with self._changed:
            opening = self._table.plan_opening(edge, time.monotonic(), epoch)
            if opening is None:
                self._changed.wait(_SLICE_S)
                return None
            return opening.epoch, [self._open.pop(evicted) for evicted in opening.evicted]

    def _forget(self, edge: int) -> None:
        with self._changed:
            self._table.forget(edge)
            self._changed.notify_all()

    def _end_idle(self, communicators: Iterable[Communicator]) -> None:
        for communicator in communicators:
            self._endings.end(communicator.handle, lambda: None, is_working=False)

    def _equip(self, handle: int) -> int:
        """In the lane. Returns the communicator's memory in bytes, 0 where NCCL cannot say."""
        if self._staging.is_registrable:
            self._nccl.register(handle, self._staging.address, self._staging.size_bytes)
        return self._nccl.fetch_memory_bytes(handle) or 0
