"""What this replica tells its peers, and takes from theirs: the state between the wire and the fleets. No I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem_router.digests.lending import Lending
from tandem_router.digests.membership import Membership
from tandem_router.digests.messages import MAX_INSERTS, Digest, FleetLevel, Load, Sighting
from tandem_router.digests.ownership import base_share, choose_owner
from tandem_router.fleets import Catalog, Fleet, Worker
from tandem_router.policy.costs import prefill_s
from tandem_router.policy.learned import typical_terms

FRESH_S = 1.0  # what a peer said counts for so long
TICKS_KEPT = 64
TYPICAL_PROMPT_TOKENS = 1024


@dataclass
class PeerView:
    """What one peer said last."""

    epoch: str
    tick: int
    heard_s: float
    loads: Mapping[str, Load]
    fleets: Mapping[str, FleetLevel]
    draining: bool


@dataclass
class Replica:
    """This replica among its peers. Times are of the loop's clock.

    Attributes:
        epoch: new at each start of the process.
        draining: this replica takes no more requests.
    """

    catalog: Catalog
    membership: Membership
    epoch: str
    draining: bool = False
    views: dict[str, PeerView] = field(default_factory=dict)
    lending: Lending = field(default_factory=Lending)
    _tick: int = 0
    _members: list[str] = field(default_factory=list)
    _loads: dict[str, Load] = field(default_factory=dict)
    _sent_s: dict[int, float] = field(default_factory=dict)
    _sightings: dict[str, Sighting] = field(default_factory=dict)
    _inserts: dict[str, list[int]] = field(default_factory=dict)
    _insert_count: int = 0

    # --- what is told -------------------------------------------------------------------------------------------

    def begin_tick(self, now_s: float) -> list[str]:
        """A round of digests begins. Returns whom to tell; shares are up to date for them."""
        self._tick += 1
        self._sent_s[self._tick] = now_s
        self._sent_s.pop(self._tick - TICKS_KEPT, None)
        self._members = self.membership.members(now_s)
        self._sum_peers(now_s)
        self._allot(now_s)
        peers = self.membership.peers()
        self._loads = self._count_loads(now_s) if peers else {}
        return peers

    def end_tick(self) -> None:
        """Every digest of this round has been built: what was new is new no more."""
        self._sightings.clear()
        self._inserts.clear()
        self._insert_count = 0

    def digest_for(self, peer: str, now_s: float) -> Digest:
        """What to tell one peer now."""
        view = self.views.get(peer)
        return Digest(
            sender=self.membership.own,
            epoch=self.epoch,
            tick=self._tick,
            heard=view.tick if view is not None else 0,
            heard_epoch=view.epoch if view is not None else "",
            draining=self.draining,
            loads=self._loads,
            sightings=dict(self._sightings),
            lent=self._lend(peer, view, now_s),
            inserts={uid: list(blocks) for uid, blocks in self._inserts.items()},
            fleets={fleet.spec.uid: level_of(fleet) for fleet in self.catalog.fleets.values()},
        )

    def note_sighting(self, worker: Worker, age_s: float) -> None:
        """We have just read a worker's state: the peers need not."""
        state = worker.state
        if state is not None:
            self._sightings[worker.spec.uid] = Sighting(
                age_s=max(0.0, age_s), instance=state.instance, ready=state.ready, draining=state.draining,
                running=state.running, waiting=state.waiting, kv_usage=min(1.0, max(0.0, state.kv_usage)),
                circuits_open=state.circuits_open[:64],
            )  # fmt: skip

    def note_inserts(self, worker: Worker, blocks: Iterable[int]) -> None:
        """A worker has newly cached these blocks. What is too much for one digest is not told."""
        room = MAX_INSERTS - self._insert_count
        new = list(blocks)[:room]
        if new and self.membership.peers():
            self._inserts.setdefault(worker.spec.uid, []).extend(new)
            self._insert_count += len(new)

    def owns(self, worker: Worker, now_s: float) -> bool:
        """We are the one who asks this worker for its state."""
        return choose_owner(worker.spec.uid, self.membership.members(now_s)) == self.membership.own

    def owns_fleet(self, uid: str, now_s: float) -> bool:
        """We are the one who probes this fleet."""
        return not self.draining and choose_owner(uid, self.membership.members(now_s)) == self.membership.own

    def _count_loads(self, now_s: float) -> dict[str, Load]:
        loads = {}
        for fleet, worker in self.catalog.workers():
            own = self._own_slots(worker, now_s)
            wants = self._wanted(fleet, worker, own)
            if worker.claimed or wants:
                loads[worker.spec.uid] = Load(
                    running=worker.claimed,
                    tokens=worker.claimed_tokens,
                    beyond=max(0, worker.claimed - own),
                    wants=wants,
                )
        return loads

    def _own_slots(self, worker: Worker, now_s: float) -> int:
        if not self.membership.may_use_own(now_s):
            return 0
        return base_share(worker.spec.uid, worker.slots, self.membership.own, self._members)

    def _wanted(self, fleet: Fleet, worker: Worker, own: int) -> int:
        """Slots beyond our own that we use, and those that would come in useful: before they are missed."""
        if not worker.spec.ready or worker.spec.terminating:
            return 0
        more = max(1, own // 4) if 4 * worker.claimed >= 3 * own else 0
        queued = len(fleet.queue)
        if queued:
            more += -(-queued // max(1, len(fleet.workers)))
        return min(worker.slots, max(0, worker.claimed + more - own))

    def _lend(self, peer: str, view: PeerView | None, now_s: float) -> dict[str, int]:
        if view is None or self.draining or now_s - view.heard_s > FRESH_S:
            return {}
        wanted = {uid: load.wants for uid, load in view.loads.items() if load.wants}
        idle = {
            worker.spec.uid: self._own_slots(worker, now_s) - worker.claimed
            for fleet, worker in self.catalog.workers()
            if worker.spec.uid in wanted and not fleet.queue
        }
        return self.lending.lend(peer, wanted, idle, now_s)

    def _allot(self, now_s: float) -> None:
        """Set what we may use of each worker; wake those that wait where that has become more."""
        is_alone = len(self._members) <= 1
        for fleet in self.catalog.fleets.values():
            has_more = False
            for worker in fleet.workers.values():
                before = worker.allotted
                worker.allotted = None if is_alone else self.allotment(worker, now_s)
                has_more = has_more or (before is not None and (worker.allotted is None or worker.allotted > before))
            if has_more:
                fleet.queue.wake()

    def allotment(self, worker: Worker, now_s: float) -> int:
        """Slots of a worker that we may use now: our own, less what is lent, and what we are lent."""
        uid = worker.spec.uid
        own = self._own_slots(worker, now_s) - self.lending.lent_out(uid, now_s)
        return min(worker.slots, max(0, own) + self.lending.borrowed(uid, now_s))

    def _sum_peers(self, now_s: float) -> None:
        """Bring the peers' part of each worker's load up to date; what is old counts no more."""
        members = set(self.membership.peers())
        for address in [address for address in self.views if address not in members]:
            del self.views[address]
            self.lending.forget(address)
        for address, view in self.views.items():
            if now_s - view.heard_s > FRESH_S:
                self.lending.note_use(address, {})  # what it used when it fell silent is not waited for for ever
        fresh = [view.loads for view in self.views.values() if now_s - view.heard_s <= FRESH_S]
        for _, worker in self.catalog.workers():
            loads = [load for loads in fresh if (load := loads.get(worker.spec.uid)) is not None]
            worker.peer_running = min(sum(load.running for load in loads), worker.slots)
            worker.peer_tokens = sum(load.tokens for load in loads)

    def levels(self, uid: str, now_s: float) -> list[FleetLevel]:
        """What the others that are heard say of a fleet's queue."""
        fresh = (view.fleets for view in self.views.values() if now_s - view.heard_s <= FRESH_S)
        return [level for fleets in fresh if (level := fleets.get(uid)) is not None]

    def describe(self, now_s: float) -> dict[str, Any]:
        """Who is there, who was heard of late, and what of each worker is ours now."""
        return {
            "own": self.membership.own,
            "members": self.membership.members(now_s),
            "heard": {
                name: now_s - view.heard_s for name, view in self.views.items() if now_s - view.heard_s <= FRESH_S
            },
            "allotted": {worker.name: worker.allotted for _, worker in self.catalog.workers()},
        }

    # --- what is heard ------------------------------------------------------------------------------------------

    def take(self, digest: Digest, now_s: float) -> list[tuple[Fleet, Worker]]:
        """A peer's digest. Returns workers of which it says what we should see for ourselves."""
        if digest.sender not in self.membership.peers() or self._is_old(digest):
            return []
        self.membership.note_answer(digest.sender)
        before = self.views.get(digest.sender)
        if before is not None and before.epoch != digest.epoch:
            self.lending.forget(digest.sender)
        self.views[digest.sender] = PeerView(
            digest.epoch, digest.tick, now_s, digest.loads, digest.fleets, digest.draining
        )
        self.lending.note_use(digest.sender, {uid: load.beyond for uid, load in digest.loads.items()})
        asked_s = self._sent_s.get(digest.heard) if digest.heard_epoch == self.epoch else None
        if asked_s is not None:
            self.lending.borrow(digest.sender, digest.lent, asked_s)
        return self._take_workers(digest, now_s)

    def _is_old(self, digest: Digest) -> bool:
        view = self.views.get(digest.sender)
        return view is not None and view.epoch == digest.epoch and digest.tick <= view.tick

    def _take_workers(self, digest: Digest, now_s: float) -> list[tuple[Fleet, Worker]]:
        doubtful = []
        for fleet, worker in self.catalog.workers():
            uid = worker.spec.uid
            if (blocks := digest.inserts.get(uid)) is not None:
                self.catalog.index.insert(blocks, worker.bit)
            sighting = digest.sightings.get(uid)
            if sighting is not None and not worker.take_sighting(sighting, now_s):
                doubtful.append((fleet, worker))
        return doubtful


def level_of(fleet: Fleet) -> FleetLevel:
    """How full a fleet is."""
    wishes = list(fleet.queue.wishes())
    queued_tokens = sum(wish.tokens for wish in wishes)
    prefills = [worker for worker in fleet.workers.values() if worker.is_prefill] or list(fleet.workers.values())
    typical = typical_terms([fit for worker in prefills if (fit := worker.fits.prefill.terms) is not None])
    predicted_s = None
    if typical is not None:
        least = min(worker.backlog_tokens for worker in prefills)
        ahead = least + queued_tokens // len(prefills)
        predicted_s = min(3600.0, prefill_s(typical, ahead, TYPICAL_PROMPT_TOKENS))
    waiting = sum(wish.blocked_on() == "decode" for wish in wishes)
    return FleetLevel(
        queued=len(wishes), queued_tokens=queued_tokens, waiting_decode=waiting, predicted_ttft_s=predicted_s
    )
