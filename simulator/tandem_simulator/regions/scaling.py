"""Regions that scale: in each the production autoscaler, and between them the words of demand that some cannot meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from tandem_api.router import RegionFleetWord, RegionWord
from tandem_api.v1alpha1 import RegionDemandStatus
from tandem_operator.autoscale.region_words import RegionWords
from tandem_operator.autoscale.report import build_region_status
from tandem_operator.autoscale.scaler import REPORT_EVERY_S
from tandem_operator.autoscale.settings import ROUND_S, Settings
from tandem_simulator.regions.origin import Origin, RegionPolicy, numbers_of, view_pool
from tandem_simulator.regions.world import Region, World

FLEET = "simulated/fleet"


@dataclass(frozen=True, slots=True)
class Outage:
    """A region has no GPUs from … until. Its routers and its operator live, and its users go on asking."""

    region: str
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    """One region at one round: workers that are ready and asked for, and requests per second that it helps with."""

    at_s: float
    prefill_ready: int
    prefill: int
    decode_ready: int
    decode: int
    helped_rps: float
    uncoverable_rps: float


@dataclass
class _Operator:
    """One region's autoscaler, and what it said last."""

    region: Region
    origin: Origin
    policy: RegionPolicy
    words: RegionWords = field(default_factory=RegionWords)
    said: RegionDemandStatus = field(default_factory=RegionDemandStatus)
    said_s: float = float("-inf")
    needy_s: float = float("-inf")
    ticks: list[Tick] = field(default_factory=list)

    def speak(self, now_s: float) -> None:
        """As the operator does: a new need at once, its end after a minute without, all else once a minute."""
        word = build_region_status(self.policy.decision.supply)
        is_new = word.uncoverable is not None and self.said.uncoverable is None
        self.needy_s = now_s if word.uncoverable is not None else self.needy_s
        is_fading = word.uncoverable is None and now_s - self.needy_s < REPORT_EVERY_S
        if is_new or (now_s - self.said_s >= REPORT_EVERY_S and not is_fading):
            self.said, self.said_s = word, now_s


class RegionalScaling:
    """Sizes the pools of every region of a world, every five seconds.

    Args:
        settings: of the fleet in each region.
        acts_from_s: the first round.
        helps: whether words are heard; without, each region is for itself.
    """

    def __init__(
        self,
        world: World,
        settings: Mapping[str, Settings],
        startup_s: float,
        outages: Sequence[Outage] = (),
        *,
        helps: bool = True,
    ) -> None:
        self._world, self._outages, self._helps = world, outages, helps
        origins = np.array(world.origins)
        self._operators = [
            self._operator(region, Origin(world.workload, numbers_of(origins, place)), settings, startup_s)
            for place, region in enumerate(world.regions)
        ]
        self._told = 0
        world.on_arrival = self._arrive
        for region in world.regions:
            region.prefill.on_prefilled = partial(self._prefilled, region)
        for outage in outages:
            world.agenda.at(outage.from_s, self._lose, outage)
            world.agenda.at(outage.until_s, self._restore, outage)
        world.agenda.at(startup_s, self._round, None)

    @property
    def ticks(self) -> dict[str, list[Tick]]:
        """Every round of every region."""
        return {one.region.name: one.ticks for one in self._operators}

    def worker_hours(self) -> dict[str, float]:
        """Per region, until the last arrival."""
        until_s = self._world.workload.trace.span_s
        return {
            region.name: (region.prefill.pool.worker_seconds(until_s) + region.decode.pool.worker_seconds(until_s))
            / 3600.0
            for region in self._world.regions
        }

    @staticmethod
    def _operator(region: Region, origin: Origin, settings: Mapping[str, Settings], startup_s: float) -> _Operator:
        return _Operator(region, origin, RegionPolicy(settings[region.name], origin, startup_s))

    def _arrive(self, number: int) -> None:
        self._operators[self._world.origins[number]].origin.arrive(number)

    def _prefilled(self, region: Region, now_s: float, number: int) -> None:
        self._operators[self._world.origins[number]].origin.prefilled(number)
        region.decode.expect(now_s, number)

    def _round(self, now_s: float, _nothing: None) -> None:
        self._report_endings()
        for one in self._operators:
            self._decide(one, now_s)
        for one in self._operators:
            one.speak(now_s)
        if self._helps:
            told = {one.region.name: _word(one.said) for one in self._operators}
            for one in self._operators:
                one.words.take(told, now_s)
        if now_s < self._world.workload.trace.span_s:
            self._world.agenda.at(now_s + ROUND_S, self._round, None)

    def _report_endings(self) -> None:
        ended = self._world.journal.ended
        for one in ended[self._told :]:
            self._operators[self._world.origins[one.request]].origin.end(one)
        self._told = len(ended)

    def _decide(self, one: _Operator, now_s: float) -> None:
        region, policy = one.region, one.policy
        prefill, decode = region.prefill.pool, region.decode.pool
        lost = self._outage_of(region.name, now_s)
        policy.without_gpus_s = now_s - lost.from_s if lost else 0.0
        policy.regions = one.words.meant_for(region.name, FLEET, one.said)
        sizes = policy.decide(one.origin.view(now_s, view_pool(prefill), view_pool(decode)))
        region.prefill.resize(now_s, sizes.prefill)
        region.decode.resize(now_s, sizes.decode)
        if lost:
            self._send_away(region, now_s)
        one.ticks.append(
            Tick(
                now_s,
                len(prefill.ready),
                sizes.prefill,
                len(decode.ready),
                sizes.decode,
                policy.regions.helped.requests_per_s,
                policy.decision.supply.uncoverable.requests_per_s,
            )
        )

    def _outage_of(self, region: str, now_s: float) -> Outage | None:
        return next((one for one in self._outages if one.region == region and one.from_s <= now_s < one.until_s), None)

    def _lose(self, now_s: float, outage: Outage) -> None:
        """Every worker dies; streams that had begun fail, the other requests are served elsewhere."""
        region = next(one for one in self._world.regions if one.name == outage.region)
        region.prefill.lose_gpus(now_s)
        region.decode.lose_gpus(now_s)
        self._send_away(region, now_s)

    def _send_away(self, region: Region, now_s: float) -> None:
        for number in (*region.prefill.take_queue(now_s), *region.decode.take_waiting()):
            self._world.route(now_s, number)

    def _restore(self, now_s: float, outage: Outage) -> None:
        region = next(one for one in self._world.regions if one.name == outage.region)
        for stage in (region.prefill, region.decode):
            stage.pool.has_gpus = True
            stage.resize(now_s, stage.pool.desired)


def _word(said: RegionDemandStatus) -> RegionWord:
    fleet = RegionFleetWord(uncoverable=said.uncoverable, room=said.room)
    return RegionWord(fresh=True, fleets={FLEET: fleet})
