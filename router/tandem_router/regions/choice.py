"""Which region serves a request: residency first, then home while it is content, then whoever is best by a margin.

DESIGN §12, but for one thing that was measured (`make bench-regions`): a home that keeps requests until it would miss
their target has a worse tail than one that gives them away early, so home is content only within a tenth of it.

Every term is seconds: what a request would wait there, the round trip, a margin against flapping, and the price of a
region as the wait that it is worth. Capacity is normalised: a queue counts by the time its workers need.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tandem_router.regions.load import FleetLoad


@dataclass(frozen=True, slots=True)
class SpillRules:
    """How readily a request leaves home.

    Attributes:
        content_share: home serves without a look at peers while its prediction stays within this share of the target.
        margin_s: a peer must be better by so much, beside the round trip.
        stay_ratio: share of the margin that is enough once requests are leaving already (hysteresis).
        price_s: what a price weight above the cheapest peer's is worth in waiting.
    """

    content_share: float = 0.1
    margin_s: float = 0.05
    stay_ratio: float = 0.5
    price_s: float = 0.5


@dataclass(frozen=True, slots=True)
class RegionView:
    """One region as this router sees it at the moment of a decision.

    Attributes:
        hit_tokens: prompt tokens that it has probably cached, from what we ourselves sent there.
        sent, sent_tokens: requests and prompt tokens sent there since it told its load.
        accepts: share of requests that it may be given: 1 normally, 0 down or drained, between while it comes back.
    """

    name: str
    load: FleetLoad
    rtt_s: float = 0.0
    hit_tokens: int = 0
    sent: int = 0
    sent_tokens: float = 0.0
    price_weight: float = 1.0
    accepts: float = 1.0

    def ttft_s(self, tokens: int) -> float:
        """Predicted time to the first token of a prompt of `tokens`, the way there included."""
        return self.load.predicted_ttft_s(max(0, tokens - self.hit_tokens), self.sent_tokens, self.sent) + self.rtt_s


@dataclass(frozen=True, slots=True)
class RegionAsk:
    """What a decision needs to know of a request.

    Attributes:
        target_s: TTFT target.
        allowed: regions that may serve it (residency), None for all.
        may_spill: the tenant's budget has room.
        hops: regions it has already left; one hop at most.
    """

    tokens: int
    target_s: float
    allowed: frozenset[str] | None = None
    may_spill: bool = True
    hops: int = 0

    def allows(self, region: str) -> bool:
        """Residency."""
        return self.allowed is None or region in self.allowed


@dataclass(frozen=True, slots=True)
class RegionChoice:
    """Where a request goes, and why. `region` None: nowhere may it be served now."""

    region: str | None
    reason: str
    scores: dict[str, float] = field(default_factory=dict)  # seconds, lower is better; for explain


def is_content(ask: RegionAsk, home: RegionView, rules: SpillRules) -> bool:
    """Home serves without a look at peers: well within the target, and with a free decode slot."""
    if ask.hops > 0 or not ask.allows(home.name) or home.accepts <= 0.0 or not home.load.has_room(home.sent):
        return False
    return home.ttft_s(ask.tokens) <= rules.content_share * ask.target_s


def decide_region(
    ask: RegionAsk, home: RegionView, peers: Sequence[RegionView], rules: SpillRules, *, leaning: bool, draw: float
) -> RegionChoice:
    """Choose a region.

    Args:
        leaning: requests of this fleet are leaving home already.
        draw: a number in [0, 1), equal chance for each: lets a peer that comes back take its ramp's share.
    """
    if ask.hops > 0:
        return _last_hop(ask, home)
    able = [peer for peer in peers if ask.allows(peer.name) and peer.accepts > 0.0 and peer.load.can_serve]
    reachable = [peer for peer in able if draw < peer.accepts]
    # A ramp spares a region that has come back while there is a choice; it does not keep the only one idle.
    if not ask.allows(home.name):
        return _elsewhere(ask, reachable or able, rules, draw, "home_not_allowed")
    if home.accepts <= 0.0 or not home.load.can_serve:
        return _elsewhere(ask, reachable or able, rules, draw, "home_cannot_serve", home)
    home_s = home.ttft_s(ask.tokens)
    if is_content(ask, home, rules):
        return RegionChoice(home.name, "home_is_content", {home.name: home_s})
    if not ask.may_spill:
        return RegionChoice(home.name, "no_spill_budget", {home.name: home_s})
    choice = _spill(ask, home, home_s, reachable, rules, draw)
    if choice.reason != "spilled" or not home.load.has_room(home.sent):
        return choice  # a home whose decode workers are all taken waits longer than its prefill tells
    gain_s = home_s - next(peer for peer in reachable if peer.name == choice.region).ttft_s(ask.tokens)
    if gain_s > rules.margin_s * (rules.stay_ratio if leaning else 1.0):
        return choice
    return RegionChoice(home.name, "not_worth_the_way", choice.scores)


def _last_hop(ask: RegionAsk, home: RegionView) -> RegionChoice:
    """A forwarded request is served here or not at all: no loops, and residency is checked again."""
    if not ask.allows(home.name):
        return RegionChoice(None, "residency")
    return RegionChoice(home.name, "forwarded")


def _spill(
    ask: RegionAsk, home: RegionView, home_s: float, peers: Sequence[RegionView], rules: SpillRules, draw: float
) -> RegionChoice:
    roomy = [peer for peer in peers if peer.load.has_room(peer.sent)]
    scores = score_regions(ask, roomy, rules) | {home.name: home_s}
    if not roomy:
        return RegionChoice(home.name, "no_peer_has_room", scores)
    return RegionChoice(_best(roomy, scores, rules, draw).name, "spilled", scores)


def _elsewhere(
    ask: RegionAsk,
    peers: Sequence[RegionView],
    rules: SpillRules,
    draw: float,
    reason: str,
    home: RegionView | None = None,
) -> RegionChoice:
    """Home cannot take it: the best of the others, those with room first. It may wait there; it cannot here."""
    roomy = [peer for peer in peers if peer.load.has_room(peer.sent)] or list(peers)
    if not roomy:
        # Home, if it is allowed at all, holds the request until a worker comes.
        return RegionChoice(None if home is None else home.name, "residency" if home is None else "nowhere_else")
    scores = score_regions(ask, roomy, rules)
    return RegionChoice(_best(roomy, scores, rules, draw).name, reason, scores)


def _best(peers: Sequence[RegionView], scores: dict[str, float], rules: SpillRules, draw: float) -> RegionView:
    """The lowest score; among those as good within the margin, by chance in proportion to their capacity.

    Without that, all routers would send to the same idle region at once, and a large one would get no more than a
    small one while both are idle.
    """
    limit = min(scores[peer.name] for peer in peers) + rules.margin_s
    near = sorted((peer for peer in peers if scores[peer.name] <= limit), key=lambda peer: peer.name)
    capacities = [peer.load.prefill_workers * peer.load.worker_tokens_per_s for peer in near]
    mark = draw * sum(capacities)
    for peer, capacity in zip(near, capacities, strict=True):
        mark -= capacity
        if mark < 0.0:
            return peer
    return near[-1]


def score_regions(ask: RegionAsk, peers: Sequence[RegionView], rules: SpillRules) -> dict[str, float]:
    """Seconds that each peer costs: predicted TTFT with the way, and its price above the cheapest."""
    cheapest = min((peer.price_weight for peer in peers), default=1.0)
    return {peer.name: peer.ttft_s(ask.tokens) + rules.price_s * (peer.price_weight - cheapest) for peer in peers}
