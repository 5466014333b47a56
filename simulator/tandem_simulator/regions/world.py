"""One run over several regions: a chooser in each, the production stages behind it."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tandem_core.performance import MS_PER_S
from tandem_router.regions.load import FleetLoad
from tandem_simulator.conditions import Conditions, Scene
from tandem_simulator.decode_stage import TPOT_FILL, DecodeStage
from tandem_simulator.events import Agenda
from tandem_simulator.journal import empty_journal
from tandem_simulator.prefill_stage import PrefillStage
from tandem_simulator.prefix_cache import BlockCache
from tandem_simulator.regions.choosers import Chooser, Sight
from tandem_simulator.regions.geography import Geography
from tandem_simulator.traffic.model import Floats, Ints
from tandem_simulator.workload import Workload

DIGEST_S = 0.1
OVERRUN_S = 3600.0
MEAN_REQUEST_TOKENS = 1500.0  # when nobody has been served yet; afterwards the mean of what came


class Region:
    """Pools, queue and cache of one region."""

    def __init__(self, name: str, scene: Scene, geography: Geography, cache_tokens: int | None) -> None:
        self.name = name
        self.cache = BlockCache(cache_tokens)
        self.prefill = PrefillStage(scene)
        self.decode = DecodeStage(scene, self.prefill)
        self.prefill.on_prefilled = self.decode.expect
        sizes = geography.sizes[name]
        self.prefill.add_ready(0.0, sizes.prefill)
        self.decode.add_ready(0.0, sizes.decode)
        model = scene.conditions.spec.model
        self._rate = MS_PER_S / (model.p1_ms + model.p0_ms / model.step_tokens)
        self._spec, self._tpot_ms = scene.conditions.spec, scene.conditions.tpot_s * MS_PER_S
        self.digests: deque[tuple[float, FleetLoad]] = deque(maxlen=32)

    def load(self, mean_tokens: float) -> FleetLoad:
        """What its routers would tell now."""
        stage, decode = self.prefill, self.decode
        return FleetLoad(
            queued_tokens=stage.queued_tokens + stage.running_tokens / 2.0,
            prefill_workers=len(stage.pool.ready),
            worker_tokens_per_s=self._rate,
            free_slots=sum(
                self._room(one.engine.sequences, one.engine.reserved_tokens, mean_tokens) for one in decode.pool.ready
            ),
            waiting_decode=len(decode.waiting),
            idle_workers=len(stage.pool.ready) - stage.busy,
        )

    def _room(self, sequences: int, reserved: float, mean_tokens: float) -> int:
        """Requests of mean size that one decode worker can take within slots, KV and TPOT."""
        spec, model = self._spec, self._spec.model
        by_kv = (spec.kv_capacity_tokens - reserved) / mean_tokens
        spare_ms = self._tpot_ms * TPOT_FILL - model.d0_ms - model.d1_ms * sequences - model.d2_ms * reserved
        by_tpot = spare_ms / (model.d1_ms + model.d2_ms * mean_tokens)
        return max(0, int(min(spec.max_sequences - sequences, by_kv, by_tpot)))


@dataclass(frozen=True)
class WorldRun:
    """What came out; NaN where a request never got so far.

    Attributes:
        ttft_s: as the client at the origin sees it, the way included.
        served: number of the region that served each request; -1 if none.
    """

    ttft_s: Floats
    tpot_s: Floats
    served: Ints
    origins: Ints
    cached_tokens: int
    ended: int


class World:
    """Wires the regions, and runs the clock."""

    def __init__(
        self, workload: Workload, origins: Ints, conditions: Conditions, geography: Geography, cache_tokens: int | None
    ) -> None:
        self.agenda, self.journal = Agenda(), empty_journal(len(workload))
        scene = Scene(workload, conditions, self.agenda, self.journal, np.random.default_rng(conditions.seed))
        self.workload, self.origins, self._geography = workload, origins.tolist(), geography
        self.regions = [Region(name, scene, geography, cache_tokens) for name in geography.names]
        self.on_arrival: Callable[[int], None] = lambda _request: None
        self._served = [-1] * len(workload)
        self._back_s = [0.0] * len(workload)
        self._mean_tokens = MEAN_REQUEST_TOKENS
        self._cached = 0

    def run(self, chooser: Chooser) -> WorldRun:
        """Serve every request."""
        agenda, trace = self.agenda, self.workload.trace
        self._chooser = chooser
        agenda.at(0.0, self._tell_all, trace.span_s)
        for number, at_s in enumerate(trace.arrival_s.tolist()):
            while agenda.next_s() < at_s:
                agenda.run_next()
            self.on_arrival(number)
            self.route(at_s, number)
        until_s = trace.span_s + OVERRUN_S
        while len(self.journal.ended) < len(trace) and agenda.next_s() < until_s:
            agenda.run_next()
        return self._result()

    def _tell_all(self, now_s: float, until_s: float) -> None:
        for region in self.regions:
            region.digests.append((now_s, region.load(self._mean_tokens)))
        if now_s < until_s:
            self.agenda.at(now_s + DIGEST_S, self._tell_all, until_s)

    def route(self, now_s: float, number: int) -> None:
        """Send a request, new or returned, from its origin to where the chooser says."""
        chooser = self._chooser
        trace, names = self.workload.trace, self._geography.names
        tokens = int(trace.input_tokens[number])
        self._mean_tokens += 0.001 * (tokens + int(trace.output_tokens[number]) - self._mean_tokens)
        origin = self.origins[number]
        blocks = trace.blocks[number] if trace.blocks is not None else ()
        home = self.regions[origin]
        others = [region for region in self.regions if region is not home]
        sight = Sight(
            now_s=now_s,
            home=home.name,
            tokens=tokens,
            target_s=float(self.workload.target_s[number]),
            blocks=blocks,
            home_hit=home.cache.hit_tokens(blocks) if blocks else 0,
            home_load=home.load(self._mean_tokens),
            peers={other.name: self._seen(home.name, other, now_s) for other in others},
        )
        chosen = names.index(chooser.choose(sight))
        there_s, back_s = chooser.way_s(home.name, names[chosen])
        self._served[number], self._back_s[number] = chosen, back_s
        region = self.regions[chosen]
        if blocks:
            self._meet_cache(region, number, tokens, blocks)
        if there_s <= 0.0:
            region.prefill.arrive(now_s, number)
        else:
            self.agenda.at(now_s + there_s, region.prefill.arrive, number)

    def _seen(self, home: str, other: Region, now_s: float) -> tuple[float, FleetLoad]:
        """The newest digest that has crossed the way, and when it was told."""
        until_s = now_s - self._geography.between_s(home, other.name) / 2.0
        return next((one for one in reversed(other.digests) if one[0] <= until_s), (0.0, FleetLoad()))

    def _meet_cache(self, region: Region, number: int, tokens: int, blocks: Sequence[int]) -> None:
        hit = min(region.cache.hit_tokens(blocks), tokens - 1)
        region.cache.remember(blocks)
        region.prefill.set_prompt(number, tokens - hit, hit)
        self._cached += hit

    def _result(self) -> WorldRun:
        trace, journal = self.workload.trace, self.journal
        first, last = np.array(journal.first_token_s), np.array(journal.last_token_s)
        first[np.array(journal.failed)] = np.nan
        ttft = first + np.array(self._back_s) - trace.arrival_s
        ttft[np.isnan(last)] = np.nan
        tpot = (last - first) / np.maximum(trace.output_tokens - 1, 1)
        origins = np.array(self.origins)
        return WorldRun(ttft, tpot, np.array(self._served), origins, self._cached, len(journal.ended))
