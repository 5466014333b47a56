"""The worker's half: what a rank leases, loads and counts, seen from outside NIXL. Pure; time is an argument."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from tandem_api.worker import LOADS_REMEMBERED
from tandem_worker.kv.circuit import Circuit
from tandem_worker.kv.counters import Counters
from tandem_worker.kv.leases import LeaseTable
from tandem_worker.kv.loads import LoadResult
from tandem_worker.kv.recent_loads import RecentLoad, RecentLoads
from tandem_worker.kv_nixl.orders import LoadNote, StepNotes

FAILURE = "nixl_transfer_failed"  # NIXL tells that a read failed; why is in the engine's log
_READER = frozenset({0})


@dataclass
class Ledger:
    """One rank.

    Args:
        is_first: whether this is rank 0, which alone counts tokens, so that ranks may be summed.
        block_bytes: KV of one block in this rank.
    """

    is_first: bool
    block_bytes: int
    tombstone_s: float
    circuit_failures: int
    circuit_cooldown_s: float
    counters: Counters = field(default_factory=Counters)
    _loads: dict[str, tuple[LoadNote, float]] = field(default_factory=dict)  # by request, with when it began
    _recent: RecentLoads = field(default_factory=lambda: RecentLoads(LOADS_REMEMBERED))
    _circuits: dict[str, Circuit] = field(default_factory=dict)  # by prefill worker
    _to_free: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._leases = LeaseTable(inf, self.tombstone_s)  # NIXL ends them in time; here they are only known

    def begin_step(self, notes: StepNotes, leased: Iterable[str], now_s: float) -> None:
        """What the scheduler ordered: loads that begin, requests whose blocks are kept from now on."""
        for request_id in leased:
            self._to_free.update(self._leases.register(request_id, (), now_s))
        for note in notes.loads:
            self._loads[note.request_id] = (note, now_s)
        if self.is_first:
            self.counters.failures.update(notes.failures)
            self.counters.recomputed_tokens += notes.recomputed_tokens

    def end_step(self, sent: Iterable[str], received: Iterable[str], failed: set[str], now_s: float) -> None:
        """What NIXL reported: leases and loads that ended."""
        for request_id in sent:
            self._leases.release(request_id, 0, _READER, now_s)
        for request_id in received:
            if request_id in self._loads:
                self._end_load(*self._loads.pop(request_id), has_failed=request_id in failed, now_s=now_s)
        self._leases.expire(now_s)

    def release(self, substring: str, now_s: float) -> int:
        """End the leases whose id contains `substring`; how many did. The engine frees them in its next step."""
        ended = self._leases.drop_matching(substring, now_s)
        self._to_free.update(ended)
        return len(ended)

    def take_to_free(self) -> set[str]:
        """Leases that were ended on order since the last call."""
        ended, self._to_free = self._to_free, set()
        return ended

    def find_open_circuits(self, now_s: float) -> frozenset[str]:
        """Addresses of prefill workers that are to be left alone."""
        return frozenset(host for host, circuit in self._circuits.items() if circuit.is_open(now_s))

    def find_load(self, remote_request_id: str) -> RecentLoad | None:
        return self._recent.find(remote_request_id)

    def to_stats(self, now_s: float) -> dict[str, Any]:
        """As our own connector's ranks report it."""
        circuits = [f"{host}:0" for host in sorted(self.find_open_circuits(now_s))]
        return {"leases": len(self._leases), "circuits_open": circuits} | self.counters.to_dict()

    def _end_load(self, note: LoadNote, began_s: float, *, has_failed: bool, now_s: float) -> None:
        circuit = self._circuits.setdefault(note.prefill, Circuit(self.circuit_failures, self.circuit_cooldown_s))
        if has_failed:
            circuit.on_failure(now_s)
            self.counters.failures[FAILURE] += 1
            result = LoadResult(note.request_id, frozenset(), True, 0, note.tokens)
        else:
            circuit.on_success()
            size_bytes = note.blocks * self.block_bytes
            self.counters.transfers += 1
            self.counters.bytes_received += size_bytes
            self.counters.transfer_seconds += now_s - began_s
            result = LoadResult(note.request_id, frozenset(), False, note.tokens, 0, size_bytes)
        if self.is_first:
            self.counters.remote_tokens += result.remote_tokens
            self.counters.recomputed_tokens += result.recomputed_tokens
        self._recent.remember(note.remote_request_id, note.prefill, result)
