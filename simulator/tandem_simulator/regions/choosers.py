"""Who chooses the region: Tandem's production code, and what others do, over the same sight.

Baselines, with the same queues, engines and caches below them:
- nearest: home always (GeoDNS).
- round-robin: each region in turn.
- least-loaded: the shortest queue by the digests, capacity-normalised.
- global: one router, in the first region, chooses for all by the digests and by what it sent; every request passes it.
- skywalker: EuroSys'26: home while a worker there has no pending work; else, of the peers with a free worker and a
  queue within a small buffer, the one to which the longest prefix was sent; else home.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tandem_router.regions.choice import RegionAsk, RegionView, SpillRules, decide_region
from tandem_router.regions.load import FleetLoad
from tandem_simulator.prefix_cache import BlockCache
from tandem_simulator.regions.geography import Geography

SENT_INDEX_TOKENS = 64 * 1024 * 1024
PEER_BUFFER_TOKENS = 4096.0  # SkyWalker's "queue within a small buffer"


@dataclass(frozen=True, slots=True)
class Sight:
    """What the router at a request's origin knows when it comes.

    Attributes:
        home_hit: prompt tokens that home has cached.
        home_load: home as it is now.
        peers: by name, when a digest was told and what it said.
    """

    now_s: float
    home: str
    tokens: int
    target_s: float
    blocks: Sequence[int]
    home_hit: int
    home_load: FleetLoad
    peers: Mapping[str, tuple[float, FleetLoad]]


class Chooser(Protocol):
    """One way to choose."""

    name: str

    def choose(self, sight: Sight) -> str:
        """The region that serves."""

    def way_s(self, origin: str, chosen: str) -> tuple[float, float]:
        """Seconds from the client's region to the workers, and back."""


class Direct:
    """Requests go straight from their origin to the chosen region."""

    name = "direct"

    def __init__(self, geography: Geography) -> None:
        self.geography = geography

    def way_s(self, origin: str, chosen: str) -> tuple[float, float]:
        """Half a round trip each way."""
        half_s = self.geography.between_s(origin, chosen) / 2.0
        return half_s, half_s

    def allowed(self, sight: Sight) -> list[str]:
        """Residency is kept by every chooser."""
        limits = self.geography.allowed.get(sight.home)
        return [name for name in self.geography.names if limits is None or name in limits]


class Nearest(Direct):
    """Home always."""

    name = "nearest"

    def choose(self, sight: Sight) -> str:
        """Home."""
        return sight.home


class RoundRobin(Direct):
    """Each in turn."""

    name = "round-robin"

    def __init__(self, geography: Geography) -> None:
        super().__init__(geography)
        self._turn = 0

    def choose(self, sight: Sight) -> str:
        """The next one."""
        allowed = self.allowed(sight)
        self._turn += 1
        return allowed[self._turn % len(allowed)]


class LeastLoaded(Direct):
    """The shortest predicted wait by what the digests say; blind to the way."""

    name = "least-loaded"

    def choose(self, sight: Sight) -> str:
        """The least loaded one; home among equals."""
        loads = {name: load for name, (_, load) in sight.peers.items()} | {sight.home: sight.home_load}
        return min(self.allowed(sight), key=lambda name: (loads[name].predicted_ttft_s(0.0), name != sight.home))


class Sent:
    """What one router sent to its peers: prefixes, and what their digests cannot know yet."""

    def __init__(self) -> None:
        self._prefixes: dict[str, BlockCache] = {}
        self._recent: dict[str, deque[tuple[float, int]]] = {}

    def hit_tokens(self, peer: str, blocks: Sequence[int]) -> int:
        """Tokens of a prompt that were sent there before."""
        known = self._prefixes.get(peer)
        return 0 if known is None or not blocks else known.hit_tokens(blocks)

    def note(self, peer: str, now_s: float, tokens: int, blocks: Sequence[int]) -> None:
        """A request goes there."""
        self._prefixes.setdefault(peer, BlockCache(SENT_INDEX_TOKENS)).remember(blocks)
        self._recent.setdefault(peer, deque()).append((now_s, tokens))

    def since(self, peer: str, told_s: float, way_s: float) -> tuple[int, int]:
        """Requests and tokens that had not arrived there when its digest was told."""
        recent = self._recent.get(peer)
        if not recent:
            return 0, 0
        while recent and recent[0][0] + way_s <= told_s:
            recent.popleft()
        return len(recent), sum(tokens for _, tokens in recent)


class Tandem(Direct):
    """The production decision (tandem_router.regions)."""

    name = "tandem"

    def __init__(self, geography: Geography, rules: SpillRules | None = None, seed: int = 0) -> None:
        super().__init__(geography)
        self._rules = rules or SpillRules()
        self._sent = {name: Sent() for name in geography.names}
        self._leaning = dict.fromkeys(geography.names, False)
        self._draw = np.random.default_rng(seed).random

    def choose(self, sight: Sight) -> str:
        """Decide with what this home knows."""
        limits = self.geography.allowed.get(sight.home)
        ask = RegionAsk(sight.tokens, sight.target_s, limits)
        home = RegionView(sight.home, sight.home_load, hit_tokens=sight.home_hit)
        peers = [self._view(sight, name, told_s, load) for name, (told_s, load) in sight.peers.items()]
        choice = decide_region(
            ask, home, peers, self._rules, leaning=self._leaning[sight.home], draw=float(self._draw())
        )
        chosen = choice.region or sight.home
        self._leaning[sight.home] = chosen != sight.home
        if chosen != sight.home:
            new = sight.tokens - self._sent[sight.home].hit_tokens(chosen, sight.blocks)
            self._sent[sight.home].note(chosen, sight.now_s, max(1, new), sight.blocks)
        return chosen

    def _view(self, sight: Sight, name: str, told_s: float, load: FleetLoad) -> RegionView:
        sent, rtt_s = self._sent[sight.home], self.geography.between_s(sight.home, name)
        count, tokens = sent.since(name, told_s, rtt_s / 2.0)
        hit = sent.hit_tokens(name, sight.blocks)
        return RegionView(name, load, rtt_s, hit, count, tokens, self.geography.price_weight[name])


class SkyWalker(Direct):
    """Selective pushing with a prefix trie per peer."""

    name = "skywalker"

    def __init__(self, geography: Geography) -> None:
        super().__init__(geography)
        self._sent = {name: Sent() for name in geography.names}

    def choose(self, sight: Sight) -> str:
        """Home while nothing waits there, else the available peer with the longest prefix, else home."""
        sent = self._sent[sight.home]
        if sight.home_load.queued_tokens <= 0.0 or is_available(sight.home_load):
            return sight.home
        allowed = set(self.allowed(sight))
        able = [name for name, (_, load) in sight.peers.items() if name in allowed and is_available(load)]
        if not able:
            return sight.home
        hits = {name: sent.hit_tokens(name, sight.blocks) for name in able}
        chosen = max(able, key=lambda name: (hits[name], -self.geography.between_s(sight.home, name)))
        sent.note(chosen, sight.now_s, sight.tokens, sight.blocks)
        return chosen


def is_available(load: FleetLoad) -> bool:
    """A free worker, and hardly anything waiting."""
    return load.has_room() and load.queued_tokens <= PEER_BUFFER_TOKENS * load.prefill_workers


class GlobalRouter(Direct):
    """One router for the world, in the first region; it sends to the shortest predicted wait."""

    name = "global"

    def way_s(self, origin: str, chosen: str) -> tuple[float, float]:
        """By way of the router's region."""
        hub = self.geography.names[0]
        half_s = (self.geography.between_s(origin, hub) + self.geography.between_s(hub, chosen)) / 2.0
        return half_s, half_s

    def __init__(self, geography: Geography) -> None:
        super().__init__(geography)
        self._sent = Sent()

    def choose(self, sight: Sight) -> str:
        """The region with the shortest predicted wait for this very prompt, known prefixes counted."""
        loads = dict(sight.peers) | {sight.home: (sight.now_s, sight.home_load)}

        def wait_s(name: str) -> float:
            told_s, load = loads[name]
            _, tokens = self._sent.since(name, told_s, 0.0)
            new = max(1, sight.tokens - self._sent.hit_tokens(name, sight.blocks))
            return load.predicted_ttft_s(new, tokens)

        chosen = min(self.allowed(sight), key=lambda name: (wait_s(name), name))
        new = max(1, sight.tokens - self._sent.hit_tokens(chosen, sight.blocks))
        self._sent.note(chosen, sight.now_s, new, sight.blocks)
        return chosen
