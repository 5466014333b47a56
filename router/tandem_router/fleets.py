"""The fleets that this router serves, and what it knows of each worker at this moment."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tandem_api.router import KVEdges
from tandem_api.worker import KVCounters, WorkerState
from tandem_router.admission import AdmissionQueue, QueueLimits
from tandem_router.claims import Placement
from tandem_router.digests.messages import Sighting
from tandem_router.errors import UnavailableError
from tandem_router.http1.exchange import Endpoint, Exchange, WorkerLostError
from tandem_router.policy.ejection import Ejection
from tandem_router.policy.hedging import Hedging
from tandem_router.policy.hit_trust import HitTrust
from tandem_router.policy.learned import Terms, WorkerFits, typical_terms
from tandem_router.policy.prefix_index import PrefixIndex, seed_of
from tandem_router.policy.retry_budget import RetryBudget
from tandem_router.policy.token_ratio import TokenRatio
from tandem_router.recent import RecentWindow
from tandem_router.roster import Roster
from tandem_router.served_names import model_not_found, served_names
from tandem_router.snapshot import FleetSpec, Snapshot, WorkerSpec
from tandem_router.trials import DecayingSum, Trials

HITS_HALF_LIFE_S = 300.0
ALIVE_S = 3.5  # a worker whose state could not be read for this long is not used
TYPICAL_STAYS_S = 0.25
STALL_S = 120.0  # an answer that has begun and is this silent is given up even if its worker seems alive
PREFILL_WINDOW_TOKENS = 16_384  # on one prefill worker: a step that runs and one that waits; the rest waits here
WARM_UP_S = 30.0
COLD_WARMTH = 0.25  # a worker that has just come looks four times as dear, so that it is not run over
ADAPTERS_REMEMBERED = 8


@dataclass(frozen=True)
class Capacity:
    """Bounds of what the router keeps."""

    default_slots: int = 256
    queue: QueueLimits = field(default_factory=QueueLimits)
    index_blocks: int = 65_536
    hedge_share: float = 0.05


class Worker:
    """One worker. What is claimed of it changes only through `claims.Claim`.

    Attributes:
        claimed, claimed_tokens: this router's requests on it.
        peer_running, peer_tokens: those of other routers, as they told.
        allotted: slots of it that this router may use; None: all.
    """

    def __init__(self, spec: WorkerSpec, bit: int, default_slots: int) -> None:
        self.spec = spec
        self.bit = bit
        self.endpoint = Endpoint(spec.address, spec.http_port, spec.tls)
        self.state: WorkerState | None = None
        self.seen_s: float | None = None
        self.claimed = 0
        self.claimed_tokens = 0
        self.peer_running = 0
        self.peer_tokens = 0
        self.allotted: int | None = None
        self.fits = WorkerFits()
        self.hit_trust = HitTrust()
        self.ejection = Ejection()
        self.warmth = 1.0
        self.hit_tokens = DecayingSum(HITS_HALF_LIFE_S)
        self.exchanges: set[Exchange] = set()
        self.read_s: float | None = None  # when we read its state ourselves, the last time
        self.is_mute = False  # it did not answer us; what peers say of it is not believed
        self._adapters: dict[str, None] = {}
        self._default_slots = default_slots
        self._first_usable_s: float | None = None

    @property
    def name(self) -> str:
        """The pod's name."""
        return self.spec.name

    @property
    def is_prefill(self) -> bool:
        """Runs the prefill leg; every other role answers clients."""
        return self.spec.role == "prefill"

    @property
    def admin_endpoint(self) -> Endpoint | None:
        """Where its state is asked."""
        return None if self.spec.admin_port is None else Endpoint(self.spec.address, self.spec.admin_port)

    @property
    def slots(self) -> int:
        """Requests that it runs at once."""
        return (self.state.slots if self.state is not None else 0) or self._default_slots

    @property
    def running(self) -> int:
        """Requests on it, over all routers."""
        return self.claimed + self.peer_running

    @property
    def backlog_tokens(self) -> int:
        """Prompt tokens of these that are to be prefilled, or in its KV cache."""
        return self.claimed_tokens + self.peer_tokens

    @property
    def has_slot(self) -> bool:
        """This router may start another request there."""
        allotted = self.allotted
        if self.claimed >= (self.slots if allotted is None else allotted):
            return False
        return self.spec.role != "prefill" or self.claimed_tokens + self.peer_tokens < PREFILL_WINDOW_TOKENS

    @property
    def topology(self) -> str:
        """Domain within which KV moves fast."""
        return self.spec.topology

    @property
    def trust(self) -> float:
        """How far the prefix index is right about it."""
        return self.hit_trust.share

    def given_up(self, prefill: "Worker") -> bool:
        """It fetches no KV from that prefill worker for a while: too many fetches have failed."""
        return self.state is not None and prefill.spec.address in self.state.circuits_open

    def take_sighting(self, told: Sighting, now_s: float) -> bool:
        """A peer has read its state. False: that is news, or not to be believed, so we must see for ourselves."""
        state = self.state
        if state is None or self.is_mute or self.seen_s is None:
            return False
        if (told.instance, told.ready, told.draining) != (state.instance, state.ready, state.draining):
            return False
        self.seen_s = max(self.seen_s, now_s - told.age_s)
        self.state = state.model_copy(
            update={
                "running": told.running,
                "waiting": told.waiting,
                "kv_usage": told.kv_usage,
                "circuits_open": told.circuits_open,
            }
        )
        return True

    def is_silent_since(self, now_s: float) -> float:
        """Seconds for which the most silent of its exchanges has brought nothing; 0 without any."""
        return max((now_s - one.last_byte_s for one in self.exchanges if not one.is_paused), default=0.0)

    def has_adapter(self, name: str) -> bool:
        """The LoRA adapter was used there of late."""
        return name in self._adapters

    def note_adapter(self, name: str) -> None:
        """The LoRA adapter is used there."""
        self._adapters.pop(name, None)
        self._adapters[name] = None
        if len(self._adapters) > ADAPTERS_REMEMBERED:
            del self._adapters[next(iter(self._adapters))]

    def warm_up(self, now_s: float) -> None:
        """Let it count for more the longer it has been usable; call every second."""
        if self._first_usable_s is None:
            if not self.is_usable(now_s):
                return
            self._first_usable_s = now_s
        share = min(1.0, (now_s - self._first_usable_s) / WARM_UP_S)
        self.warmth = COLD_WARMTH + (1.0 - COLD_WARMTH) * share

    @property
    def instance(self) -> str:
        """Which start of the engine this is, as far as it has told."""
        return self.state.instance if self.state is not None else ""

    def is_alive(self, now_s: float) -> bool:
        """Its state has been read lately."""
        if self.spec.admin_port is None:
            return True
        return self.seen_s is not None and now_s - self.seen_s <= ALIVE_S

    def is_seen_since(self, then_s: float) -> bool:
        """It is known to have been alive after `then_s`; a worker that tells no state counts as seen."""
        return self.spec.admin_port is None or (self.seen_s is not None and self.seen_s > then_s)

    def is_usable(self, now_s: float) -> bool:
        """New requests may go there."""
        if not self.spec.ready or self.spec.terminating or not self.is_alive(now_s):
            return False
        return self.state is None or (self.state.ready and not self.state.draining)

    def is_avoided(self, now_s: float) -> bool:
        """It failed a moment ago, or is being tried again with one request."""
        return self.ejection.is_open(now_s)

    def note_failure(self, now_s: float) -> None:
        """A leg failed through its fault."""
        self.ejection.note_failure(now_s)

    def note_success(self) -> None:
        """A leg succeeded."""
        self.ejection.note_success()

    def forget_start(self) -> None:
        """Its engine restarted: what was on it is gone, and it is cold."""
        self.hit_trust = HitTrust()
        self._adapters.clear()
        self._first_usable_s = None

    def fail_silent(self, now_s: float, stall_s: float = STALL_S) -> None:
        """Give up its exchanges that have been silent for too long, unless it is we who do not read.

        Of a worker that is seen alive only those that had begun to answer: a long prompt may take its time.
        """
        is_alive = self.is_alive(now_s)
        limit_s = stall_s if is_alive else ALIVE_S
        for exchange in list(self.exchanges):
            is_watched = exchange.has_begun or not is_alive
            if is_watched and not exchange.is_paused and now_s - exchange.last_byte_s > limit_s:
                exchange.fail(WorkerLostError(f"{self.name} has been silent for {limit_s:.0f} s"))


class Fleet:
    """One InferenceDeployment."""

    def __init__(self, spec: FleetSpec, capacity: Capacity) -> None:
        self.spec = spec
        self.workers: dict[str, Worker] = {}  # by uid
        self.roster = Roster(self.workers)
        self.queue: AdmissionQueue[Placement] = AdmissionQueue(capacity.queue)
        self.token_ratio = TokenRatio()
        self.retry_budget = RetryBudget()
        self.hedging = Hedging(capacity.hedge_share)
        self.index_seed = seed_of(spec.uid)
        self.remote_prefills = 0
        self.local_prefills = 0
        self.recent = RecentWindow()
        self.kv_edges = KVEdges()
        self.trials = Trials()
        self._departed = KVCounters()
        self._typical: Terms | None = None
        self._typical_until_s = 0.0

    @property
    def key(self) -> str:
        """namespace/name."""
        return f"{self.spec.namespace}/{self.spec.name}"

    def usable(self, now_s: float) -> list[Worker]:
        """Workers for new requests."""
        return [worker for worker in self.workers.values() if worker.is_usable(now_s)]

    def typical_prefill(self, now_s: float) -> Terms | None:
        """What prefill costs on a typical worker, a moment old at most; None while nothing is learned."""
        if now_s >= self._typical_until_s:
            workers = self.workers.values()
            fits = [worker.fits.prefill.terms for worker in workers if worker.is_prefill or not self.spec.has_prefill]
            self._typical = typical_terms([fit for fit in fits if fit is not None])
            self._typical_until_s = now_s + TYPICAL_STAYS_S
        return self._typical

    def can_serve(self, now_s: float) -> bool:
        """There is a worker that can answer."""
        return any(not worker.is_prefill for worker in self.usable(now_s))

    @property
    def is_dormant(self) -> bool:
        """There is no worker, and by its spec there will be none."""
        return self.spec.is_dormant and not self.workers

    @property
    def kv_fallbacks(self) -> tuple[str, ...]:
        """Why workers do not use the connector that was asked for, each reason once."""
        states = (worker.state for worker in self.workers.values())
        return tuple(sorted({state.kv_fallback for state in states if state is not None and state.kv_fallback}))

    def kv_totals(self) -> KVCounters:
        """KV moved by all workers of this fleet since this router started; never falls when a worker leaves."""
        states = [worker.state.kv for worker in self.workers.values() if worker.state is not None]
        return sum_counters([self._departed, *states])

    def take_state(self, worker: Worker, state: WorkerState, now_s: float) -> bool:
        """A worker told its state. Returns whether its engine has restarted since the last time."""
        restarted = worker.state is not None and worker.state.instance != state.instance
        if restarted:
            self.retire_counters(worker)
            worker.forget_start()
        worker.state, worker.seen_s, worker.read_s, worker.is_mute = state, now_s, now_s, False
        self.roster.forget()
        return restarted

    def retire_counters(self, worker: Worker) -> None:
        """Keep what a worker counted before it left or restarted."""
        if worker.state is not None:
            self._departed = sum_counters([self._departed, worker.state.kv])


def sum_counters(counters: Iterable[KVCounters]) -> KVCounters:
    """Field by field."""
    rows = list(counters)
    return KVCounters(**{name: sum(getattr(row, name) for row in rows) for name in KVCounters.model_fields})


class Catalog:
    """All fleets, the names they are served under, and the prefix index over all their workers."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._free_bits: list[int] = []
        self._next_bit = 1
        self.fleets: dict[str, Fleet] = {}  # by uid
        self.names: dict[str, Fleet] = {}  # as clients ask for them
        self.index = PrefixIndex(capacity.index_blocks)
        self.on_cached: Callable[[Worker, list[int]], None] = lambda _worker, _blocks: None
        self.is_synced = False

    def workers(self) -> Iterator[tuple[Fleet, Worker]]:
        """Every worker with its fleet."""
        for fleet in self.fleets.values():
            for worker in fleet.workers.values():
                yield fleet, worker

    def resolve(self, model: str) -> Fleet:
        """The fleet that clients mean by `model`.

        Raises:
            ModelNotFoundError: nobody serves it.
            UnavailableError: nobody knows yet.
        """
        fleet = self.names.get(model)
        if fleet is None and not self.is_synced:
            raise UnavailableError("This router does not know its fleets yet.", code="not_synced", retry_after_s=1)
        if fleet is None:
            raise model_not_found(model)
        return fleet

    def holds_name(self, fleet: Fleet) -> bool:
        """`fleet` answers to its plain served name."""
        return self.names.get(fleet.spec.served_name) is fleet

    def apply(self, snapshot: Snapshot) -> None:
        """Take over what discovery sees; workers that stay keep what is known of them."""
        wanted = {spec.uid: spec for spec in snapshot.fleets}
        for uid in [uid for uid in self.fleets if uid not in wanted]:
            self._drop_fleet(self.fleets.pop(uid))
        for uid, spec in wanted.items():
            fleet = self.fleets.get(uid) or self.fleets.setdefault(uid, Fleet(spec, self._capacity))
            fleet.spec = spec
            self._apply_workers(fleet)
            fleet.queue.wake()
        self.names = served_names(self.fleets.values())
        self.is_synced = True

    def note_cached(self, worker: Worker, blocks: list[int]) -> None:
        """`worker` holds these blocks now."""
        new = self.index.insert(blocks, worker.bit)
        if new:
            self.on_cached(worker, new)

    def forget_cache(self, worker: Worker) -> None:
        """The engine restarted: its cache is empty."""
        self.index.forget(worker.bit)

    def _apply_workers(self, fleet: Fleet) -> None:
        wanted = {spec.uid: spec for spec in fleet.spec.workers}
        for uid in [uid for uid in fleet.workers if uid not in wanted]:
            self._drop_worker(fleet, fleet.workers.pop(uid))
        for uid, spec in wanted.items():
            worker = fleet.workers.get(uid)
            if worker is None or worker.endpoint != Endpoint(spec.address, spec.http_port, spec.tls):
                if worker is not None:
                    self._drop_worker(fleet, worker)
                fleet.workers[uid] = Worker(spec, self._take_bit(), self._capacity.default_slots)
            else:
                worker.spec = spec
        fleet.roster.forget()

    def _drop_fleet(self, fleet: Fleet) -> None:
        for worker in fleet.workers.values():
            self._drop_worker(fleet, worker)

    def _drop_worker(self, fleet: Fleet, worker: Worker) -> None:
        fleet.retire_counters(worker)
        self.index.forget(worker.bit)
        self._free_bits.append(worker.bit)

    def _take_bit(self) -> int:
        if self._free_bits:
            return self._free_bits.pop()
        bit, self._next_bit = self._next_bit, self._next_bit << 1
        return bit
