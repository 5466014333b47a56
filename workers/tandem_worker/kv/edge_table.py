"""Which edges hold a communicator: how many may, which one goes when another is needed, when an idle one goes. Pure.

A communicator costs 50 to 100 MB of GPU memory, so that not every pair of ranks that has a session keeps one. One that
is in use is never taken away.
"""

from dataclasses import dataclass, field
from enum import Enum, auto


class EdgeState(Enum):
    """An edge without an entry in the table holds nothing."""

    OPENING = auto()
    BUSY = auto()
    IDLE = auto()


@dataclass(frozen=True, slots=True)
class Opening:
    """The edge may open a communicator of this epoch, after those of `evicted` have been given up."""

    epoch: int
    evicted: tuple[int, ...]


@dataclass(slots=True)
class _Entry:
    state: EdgeState
    epoch: int
    used_s: float
    memory_bytes: int = 0


@dataclass
class EdgeTable:
    """Edges are named by numbers that are never used twice. Time is an argument, in seconds."""

    cap: int
    idle_s: float
    _epoch: int = 0
    _entries: dict[int, _Entry] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def memory_bytes(self) -> int:
        return sum(entry.memory_bytes for entry in self._entries.values())

    def find_state(self, edge: int) -> EdgeState | None:
        entry = self._entries.get(edge)
        return entry.state if entry else None

    def find_epoch(self, edge: int) -> int:
        """Of an edge that has an entry."""
        return self._entries[edge].epoch

    def plan_opening(self, edge: int, now_s: float, epoch: int | None = None) -> Opening | None:
        """Take a place for `edge`; None while all places are in use. `epoch`: the peer's choice, else a new one.

        The sending side chooses, so that both sides speak of the same communicator or notice that they do not.
        """
        self._entries.pop(edge, None)
        evicted: tuple[int, ...] = ()
        if len(self._entries) >= self.cap:
            idle = [name for name, entry in self._entries.items() if entry.state is EdgeState.IDLE]
            if not idle:
                return None
            evicted = (min(idle, key=lambda name: self._entries[name].used_s),)
            del self._entries[evicted[0]]
        if epoch is None:
            epoch = self._epoch = self._epoch + 1
        self._entries[edge] = _Entry(EdgeState.OPENING, epoch, now_s)
        return Opening(epoch, evicted)

    def on_opened(self, edge: int, memory_bytes: int) -> None:
        """Its communicator is up, and in use."""
        entry = self._entries[edge]
        entry.state, entry.memory_bytes = EdgeState.BUSY, memory_bytes

    def begin_use(self, edge: int) -> int | None:
        """The epoch of the edge's communicator, which cannot be taken away now; None when it has none."""
        entry = self._entries.get(edge)
        if entry is None or entry.state is not EdgeState.IDLE:
            return None
        entry.state = EdgeState.BUSY
        return entry.epoch

    def end_use(self, edge: int, now_s: float) -> None:
        entry = self._entries.get(edge)
        if entry is not None:
            entry.state, entry.used_s = EdgeState.IDLE, now_s

    def forget(self, edge: int) -> None:
        """Its communicator failed, or its session ended."""
        self._entries.pop(edge, None)

    def plan_idle(self, now_s: float) -> tuple[int, ...]:
        """Edges whose communicators have not been used for `idle_s`; they are no longer in the table."""
        overdue = tuple(
            name
            for name, entry in self._entries.items()
            if entry.state is EdgeState.IDLE and now_s - entry.used_s >= self.idle_s
        )
        for name in overdue:
            del self._entries[name]
        return overdue
