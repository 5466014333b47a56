"""What the other regions said last, as this region's routers heard it. The wire model: tandem_api.router.

A word lives a minute longer than the stream that brought it, so that a reconnect changes no size; then its region is
taken for lost, and what its users asked for comes to other regions' routers, and counts there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tandem_api.router import RegionFleetWord, RegionWord
from tandem_api.v1alpha1 import RegionDemandStatus, RegionLoad
from tandem_core.region_demand import NOTHING, RegionDemand, RegionSupply, helped_demand
from tandem_operator.autoscale.observation import FromRegions

KEPT_S = 60.0


@dataclass(frozen=True, slots=True)
class _Heard:
    """One region's word, and when it was last fresh."""

    at_s: float
    word: RegionWord


class RegionWords:
    """Words of all regions, the own one included, for every fleet."""

    def __init__(self) -> None:
        self._heard: dict[str, _Heard] = {}

    def take(self, regions: Mapping[str, RegionWord], now_s: float) -> None:
        """One router's answer. What is not fresh there may be so at another router."""
        for name, word in regions.items():
            if word.fresh:
                self._heard[name] = _Heard(now_s, word)
        self._heard = {name: one for name, one in self._heard.items() if now_s - one.at_s <= KEPT_S}

    def meant_for(self, region: str, fleet: str, own: RegionDemandStatus | None) -> FromRegions:
        """What they mean for `fleet` (`namespace/name`) in `region`.

        Args:
            own: what `region` itself has told, not what it thinks by now: so all regions share out the same words.
        """
        words = {name: heard.word for name, heard in self._heard.items()}
        mine = words.pop(region, RegionWord())
        supplies = {name: _read(word, word.fleets.get(fleet, RegionFleetWord())) for name, word in words.items()}
        supplies[region] = _read(mine, own or RegionDemandStatus())
        return FromRegions(helped_demand(region, supplies), mine.drain)


def _read(word: RegionWord, said: RegionFleetWord | RegionDemandStatus) -> RegionSupply:
    """A region that is drained takes nothing."""
    room = NOTHING if word.drain else _demand(said.room)
    return RegionSupply(_demand(said.uncoverable), room, word.price_weight)


def _demand(load: RegionLoad | None) -> RegionDemand:
    if load is None:
        return NOTHING
    return RegionDemand(
        load.requests_per_second,
        load.prefill_tokens_per_second,
        load.prefill_square_tokens_per_second,
        load.decode_sequences,
        load.decode_kv_tokens,
    )
