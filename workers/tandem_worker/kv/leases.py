"""A prefill rank's promises: which request's blocks are kept, for whom, until when. Pure; time is an argument.

A lease ends once: released by all its consumers, dropped on order, or expired. While it is pinned (blocks being sent)
its end is put off, because freed blocks are overwritten at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_MEMORIES = 8192


@dataclass(slots=True)
class Lease:
    """`blocks` are ids per cache group; `freed_by` are the decode ranks that need them no more."""

    blocks: tuple[tuple[int, ...], ...]
    expires_s: float
    freed_by: set[int] = field(default_factory=set)
    pins: int = 0
    ended: str | None = None

    @property
    def block_count(self) -> int:
        return sum(map(len, self.blocks))

    def covers(self, wanted: Sequence[Sequence[int]]) -> bool:
        """True when every wanted block is one of this lease's, group by group."""
        if len(wanted) != len(self.blocks):
            return False
        return all(set(ids) <= set(mine) for ids, mine in zip(wanted, self.blocks, strict=True))


class LeaseTable:
    """Leases by the prefill engine's request id. Methods that may end leases return the ids that are free now."""

    def __init__(self, lease_s: float, tombstone_s: float) -> None:
        self._lease_s = lease_s
        self._tombstone_s = tombstone_s
        self._leases: dict[str, Lease] = {}
        self._ended: dict[str, tuple[str, float]] = {}  # id -> (how, forget at)
        self._early: dict[str, tuple[set[int], frozenset[int], float]] = {}  # released before it was registered
        self._orders: dict[str, float] = {}  # substring of ids to drop on sight -> forget at

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def block_count(self) -> int:
        return sum(lease.block_count for lease in self._leases.values())

    def find(self, request_id: str) -> Lease | None:
        """The lease if it can still be pulled."""
        lease = self._leases.get(request_id)
        return lease if lease is not None and lease.ended is None else None

    def explain_absence(self, request_id: str) -> str | None:
        """How a lease ended, or None when it was never seen (it may still come)."""
        lease = self._leases.get(request_id)
        if lease is not None:
            return lease.ended
        return self._ended[request_id][0] if request_id in self._ended else None

    def register(self, request_id: str, blocks: Iterable[Iterable[int]], now_s: float) -> list[str]:
        """Begin a lease, unless its end was ordered before its beginning."""
        self._leases[request_id] = Lease(tuple(map(tuple, blocks)), now_s + self._lease_s)
        freed_by, expected, _ = self._early.pop(request_id, (set(), frozenset({-1}), 0.0))
        if expected <= freed_by or any(order in request_id for order in self._orders):
            return self._end(request_id, "released", now_s)
        self._leases[request_id].freed_by = freed_by
        return []

    def renew(self, request_id: str, now_s: float) -> None:
        if lease := self._leases.get(request_id):
            lease.expires_s = now_s + self._lease_s

    def pin(self, request_id: str) -> None:
        self._leases[request_id].pins += 1

    def unpin(self, request_id: str, now_s: float) -> list[str]:
        lease = self._leases[request_id]
        lease.pins -= 1
        return self._end(request_id, lease.ended, now_s) if lease.ended else []

    def release(self, request_id: str, consumer: int, consumers: frozenset[int], now_s: float) -> list[str]:
        """One decode rank is done; the lease ends with the last of `consumers`."""
        lease = self._leases.get(request_id)
        if lease is None:
            if request_id not in self._ended:
                self._remember_early(request_id, consumer, consumers, now_s)
            return []
        lease.freed_by.add(consumer)
        return self._end(request_id, "released", now_s) if consumers <= lease.freed_by else []

    def _remember_early(self, request_id: str, consumer: int, consumers: frozenset[int], now_s: float) -> None:
        freed_by = self._early.get(request_id, (set(), consumers, 0.0))[0] | {consumer}
        self._early[request_id] = (freed_by, consumers, now_s + self._tombstone_s)
        _forget_oldest(self._early)

    def drop_matching(self, substring: str, now_s: float) -> list[str]:
        """End every lease whose id contains `substring`, and for a while each that begins with it later."""
        self._orders[substring] = now_s + self._tombstone_s
        _forget_oldest(self._orders)
        freed: list[str] = []
        for request_id in [key for key in self._leases if substring in key]:
            freed += self._end(request_id, "released", now_s)
        return freed

    def expire(self, now_s: float) -> list[str]:
        """End what is overdue and forget what is long past."""
        freed: list[str] = []
        for request_id, lease in list(self._leases.items()):
            if lease.ended is None and lease.pins == 0 and lease.expires_s <= now_s:
                freed += self._end(request_id, "expired", now_s)
        self._ended = {key: value for key, value in self._ended.items() if value[1] > now_s}
        self._early = {key: value for key, value in self._early.items() if value[2] > now_s}
        self._orders = {key: until_s for key, until_s in self._orders.items() if until_s > now_s}
        return freed

    def _end(self, request_id: str, how: str, now_s: float) -> list[str]:
        lease = self._leases[request_id]
        lease.ended = how
        if lease.pins:
            return []  # unpin() comes back here
        del self._leases[request_id]
        self._ended[request_id] = (how, now_s + self._tombstone_s)
        _forget_oldest(self._ended)
        return [request_id]


def _forget_oldest(memory: dict[str, Any]) -> None:
    while len(memory) > MAX_MEMORIES:
        del memory[next(iter(memory))]
