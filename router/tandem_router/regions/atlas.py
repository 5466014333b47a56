"""All regions as this router knows them, and where a request of one of its clients goes. Pure."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tandem_router.regions.choice import RegionAsk, RegionChoice, RegionView, SpillRules, decide_region, is_content
from tandem_router.regions.load import FleetLoad
from tandem_router.regions.peer import Peer
from tandem_router.regions.residency import Residency, is_allowed
from tandem_router.regions.sent import SentPrefixes
from tandem_router.regions.spill_budget import SpillBudget
from tandem_router.snapshot import RegionSpec

HOME_STAYS_S = 0.01  # what home's load was a moment ago still holds, with what came since
SPILLED = "spilled"  # the one reason that costs a tenant's budget: home could have served


@dataclass(frozen=True, slots=True)
class Journey:
    """What a choice needs to know of a request.

    Attributes:
        fleet: `namespace/name`.
        tokens: of its prompt.
        cached_tokens: of these, what the best worker at home holds.
        blocks: hashes of its prompt's blocks.
        tokens_per_block: for what was sent elsewhere.
        spill_share: of the tenant's requests that may leave home.
    """

    fleet: str
    served_name: str
    tokens: int
    cached_tokens: int
    blocks: Sequence[int]
    tokens_per_block: float
    target_s: float
    tenant: str
    spill_share: float
    residency: Residency


@dataclass(slots=True)
class _Home:
    load: FleetLoad
    built_s: float
    sent: int = 0
    sent_tokens: int = 0


@dataclass
class Atlas:
    """Regions of one router. `load_of` builds the load of a fleet at home, by its key, as it is now.

    Attributes:
        own: this region; its labels, price and drain are of its own InferenceRegion, if there is one.
    """

    own: RegionSpec
    load_of: Callable[[str, float], FleetLoad]
    rules: SpillRules = field(default_factory=SpillRules)
    peers: dict[str, Peer] = field(default_factory=dict)
    _prefixes: SentPrefixes = field(default_factory=SentPrefixes)
    _homes: dict[str, _Home] = field(default_factory=dict)
    _leaning: set[str] = field(default_factory=set)
    _budgets: dict[str, SpillBudget] = field(default_factory=dict)

    # --- what regions there are ---------------------------------------------------------------------------------

    def apply(self, specs: Iterable[RegionSpec]) -> None:
        """Take over what discovery sees; a peer at another place is another peer."""
        wanted = {spec.name: spec for spec in specs}
        self.own = wanted.pop(self.own.name, RegionSpec(self.own.name))
        for name in list(self.peers):
            if name not in wanted or wanted[name].url != self.peers[name].spec.url:
                self._prefixes.forget(self.peers.pop(name).bit)
        for name, spec in wanted.items():
            if name in self.peers:
                self.peers[name].spec = spec
            else:
                self.peers[name] = Peer(spec, self._free_bit())

    def _free_bit(self) -> int:
        taken = {peer.bit for peer in self.peers.values()}
        return next(1 << place for place in range(len(taken) + 1) if 1 << place not in taken)

    def forget(self, fleets: Collection[str], tenants: Collection[str]) -> None:
        """Keep no account of what is gone; call it now and then."""
        known = set(fleets)
        for peer in self.peers.values():
            peer.forget_fleets(known)
        self._homes = {key: home for key, home in self._homes.items() if key in known}
        self._leaning &= known
        self._budgets = {name: budget for name, budget in self._budgets.items() if name in tenants}

    # --- residency ----------------------------------------------------------------------------------------------

    def allowed(self, residency: Residency) -> frozenset[str] | None:
        """Names of the known regions that `residency` allows; None where it allows every one."""
        if not residency:
            return None
        specs = (self.own, *(peer.spec for peer in self.peers.values()))
        return frozenset(spec.name for spec in specs if is_allowed(residency, spec.name, dict(spec.labels)))

    def may_serve_here(self, residency: Residency) -> bool:
        """This region is allowed."""
        return is_allowed(residency, self.own.name, dict(self.own.labels))

    # --- the choice ---------------------------------------------------------------------------------------------

    def arrive(self, journey: Journey) -> None:
        """A request of a client came: its tenant earns a share of a spill."""
        self._budget(journey).earn()

    def _budget(self, journey: Journey) -> SpillBudget:
        budget = self._budgets.get(journey.tenant)
        if budget is None or budget.share != journey.spill_share:
            budget = self._budgets[journey.tenant] = SpillBudget(journey.spill_share)
        return budget

    def choose(self, journey: Journey, tried: Collection[str], now_s: float, draw: float) -> RegionChoice:
        """Where the request goes next; `tried`: regions that have failed it."""
        home = self._home_view(journey, now_s)
        if home.name in tried:
            home = replace(home, accepts=0.0)
        ask = RegionAsk(
            journey.tokens, journey.target_s, self.allowed(journey.residency), self._budget(journey).has_room
        )
        is_peer_needed = not is_content(ask, home, self.rules)  # most requests stay, and need not cost more than that
        views = self._views(journey, now_s) if is_peer_needed else []
        peers = [view for view in views if view.name not in tried]
        return decide_region(ask, home, peers, self.rules, leaning=journey.fleet in self._leaning, draw=draw)

    def send(self, journey: Journey, choice: RegionChoice, now_s: float) -> None:
        """The request goes where `choice` says."""
        peer = self.peers.get(choice.region or "")
        if peer is None:
            self._leaning.discard(journey.fleet)
            home = self._homes[journey.fleet]
            home.sent += 1
            home.sent_tokens += journey.tokens - journey.cached_tokens
            return
        self._leaning.add(journey.fleet)
        hit = self._hit_tokens(journey).get(peer.name, 0)
        peer.note_sent(journey.fleet, max(1, journey.tokens - hit), now_s)
        self._prefixes.note(journey.blocks, peer.bit)
        if choice.reason == SPILLED:
            self._budget(journey).spend()

    def _home_view(self, journey: Journey, now_s: float) -> RegionView:
        home = self._homes.get(journey.fleet)
        if home is None or not 0.0 <= now_s - home.built_s < HOME_STAYS_S:
            home = self._homes[journey.fleet] = _Home(self.load_of(journey.fleet, now_s), now_s)
        return RegionView(
            self.own.name,
            home.load,
            hit_tokens=journey.cached_tokens,
            sent=home.sent,
            sent_tokens=home.sent_tokens,
            price_weight=self.own.price_weight,
            accepts=0.0 if self.own.drain else 1.0,
        )

    def _views(self, journey: Journey, now_s: float) -> list[RegionView]:
        hits = self._hit_tokens(journey)
        return [self._view(peer, journey, hits.get(peer.name, 0), now_s) for peer in self.peers.values()]

    def _view(self, peer: Peer, journey: Journey, hit_tokens: int, now_s: float) -> RegionView:
        sent, sent_tokens = peer.sent_since(journey.fleet)
        return RegionView(
            peer.name,
            peer.load(journey.fleet, journey.served_name),
            peer.rtt_s or 0.0,
            hit_tokens,
            sent,
            sent_tokens,
            peer.spec.price_weight,
            peer.accepts(now_s),
        )

    def _hit_tokens(self, journey: Journey) -> Mapping[str, int]:
        if not journey.blocks:
            return {}
        hits = self._prefixes.hits(journey.blocks, [peer.bit for peer in self.peers.values()])
        per_block = journey.tokens_per_block
        return {peer.name: int(hits[peer.bit] * per_block) for peer in self.peers.values() if peer.bit in hits}

    # --- others' trouble ----------------------------------------------------------------------------------------

    def has_refuge(self, fleet: str, served_name: str, now_s: float) -> bool:
        """Somebody else could serve the fleet now."""
        return any(
            peer.accepts(now_s) > 0.0 and peer.load(fleet, served_name).can_serve for peer in self.peers.values()
        )
