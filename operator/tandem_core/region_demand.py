"""Demand that a region cannot cover, shared out among those that can. Pure, and equal wherever it is computed.

DESIGN §12: the origin counts what it can reach itself; the rest travels as `uncoverable` and is given to peers by
price. What nobody has room for stays with its origin: the sum is conserved, so nobody's demand is counted twice or
lost, and a region that lost its GPUs makes the others grow by what it lost, and by no more.

A request needs prefill and decode in one region, so what moves is whole requests: every helper takes the same mix, and
as much of it as the scarcest of its rooms allows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from math import isfinite
from operator import attrgetter

MOST_FITS = 1e6


@dataclass(frozen=True, slots=True)
class RegionDemand:
    """Demand, or room for it, in units that hold on any GPU.

    Attributes:
        requests_per_s: how many come.
        prefill_tokens_per_s: new prompt tokens, after prefix hits.
        prefill_square_tokens_per_s: Σ (n² + 2 n h) per second, attention's work.
        decode_sequences: held at once.
        decode_kv_tokens: KV tokens that these hold.
    """

    requests_per_s: float = 0.0
    prefill_tokens_per_s: float = 0.0
    prefill_square_tokens_per_s: float = 0.0
    decode_sequences: float = 0.0
    decode_kv_tokens: float = 0.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not (isfinite(value) and value >= 0.0):
                raise ValueError(f"{one.name} is {value}: demand and room are finite, zero or more")

    def __bool__(self) -> bool:
        return any(_values(self))

    def __add__(self, other: "RegionDemand") -> "RegionDemand":
        return RegionDemand(*(one + two for one, two in zip(_values(self), _values(other), strict=True)))

    def scaled(self, factor: float) -> "RegionDemand":
        """That many times this load."""
        return RegionDemand(*(factor * value for value in _values(self)))


NOTHING = RegionDemand()
_values = attrgetter(*(one.name for one in fields(RegionDemand)))
_bounded = attrgetter("prefill_tokens_per_s", "decode_sequences", "decode_kv_tokens")  # what room is given for


@dataclass(frozen=True, slots=True)
class RegionSupply:
    """One region's word.

    Attributes:
        uncoverable: demand that its bounds, budget and GPUs do not reach.
        room: what it could cover beyond its own demand; requests and squares are not looked at.
        price_weight: relative price of its capacity.
    """

    uncoverable: RegionDemand = NOTHING
    room: RegionDemand = NOTHING
    price_weight: float = 1.0


NOTHING_TO_SAY = RegionSupply()


def share_uncoverable(regions: Mapping[str, RegionSupply]) -> dict[str, float]:
    """Helper → the part (above 0, at most 1) that it covers of what each origin cannot; the rest stays there.

    The cheapest room is filled first, equal prices in proportion to their room. Who cannot help itself helps nobody.
    """
    needed = total_uncoverable(regions.values())
    shares: dict[str, float] = {}
    left = 1.0
    for group in _by_price(regions):
        parts = {name: _part(regions[name].room, needed) for name in group if not regions[name].uncoverable}
        room = sum(parts.values())
        taken = min(left, room)
        if taken > 0.0:
            shares |= {name: taken * (part / room) for name, part in parts.items() if part > 0.0}
            left -= taken
    return shares


def helped_demand(region: str, regions: Mapping[str, RegionSupply]) -> RegionDemand:
    """Demand of other regions that `region` is to cover."""
    return total_uncoverable(regions.values()).scaled(share_uncoverable(regions).get(region, 0.0))


def total_uncoverable(regions: Iterable[RegionSupply]) -> RegionDemand:
    """What nobody can cover at home."""
    return sum((one.uncoverable for one in regions), NOTHING)


def _by_price(regions: Mapping[str, RegionSupply]) -> list[list[str]]:
    """Sorted by name within a price, so that every region adds up in the same order."""
    prices = sorted({one.price_weight for one in regions.values()})
    return [sorted(name for name, one in regions.items() if one.price_weight == price) for price in prices]


def _part(room: RegionDemand, needed: RegionDemand) -> float:
    """How often `needed` fits into a room, by its scarcest side. Zero when nothing is needed.

    Bounded, because next to no need would fit infinitely often, and infinities have no proportion.
    """
    sides = [has / wants for has, wants in zip(_bounded(room), _bounded(needed), strict=True) if wants > 0.0]
    return min(MOST_FITS, *sides) if sides else 0.0
