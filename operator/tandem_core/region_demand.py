"""Demand that a region cannot cover, shared out among those that can. Pure, and equal wherever it is computed.

DESIGN §12: the origin counts what it can reach itself; the rest travels as `uncoverable` and is given to peers by
price. What nobody has room for stays with its origin: the sum is conserved, so nobody's demand is counted twice or
lost, and a region that lost its GPUs makes the others grow by what it lost, and by no more.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RegionSupply:
    """One region's word, in one unit of demand throughout (such as prefill seconds a second).

    Attributes:
        uncoverable: demand that its bounds, budget and GPUs do not reach.
        room: what it could cover beyond its own demand.
        price_weight: relative price of its capacity.
    """

    uncoverable: float = 0.0
    room: float = 0.0
    price_weight: float = 1.0


Shares = dict[str, dict[str, float]]  # origin → helper → amount; an origin's own name stands for what stays


def share_uncoverable(regions: Mapping[str, RegionSupply]) -> Shares:
    """Who covers what for whom: the cheapest room first, equal prices by room; each origin gets the same part of it.

    Ties are broken by name, so that every region computes the same from the same words.
    """
    needs = {name: one.uncoverable for name, one in regions.items() if one.uncoverable > 0.0}
    left = dict(needs)
    shares: Shares = {name: {} for name in needs}
    for group in _by_price(regions):
        rooms = {name: regions[name].room for name in group if name not in needs and regions[name].room > 0.0}
        _fill(left, rooms, shares)
    for name, amount in left.items():
        if amount > 0.0:
            shares[name][name] = amount
    return shares


def _by_price(regions: Mapping[str, RegionSupply]) -> list[list[str]]:
    prices = sorted({one.price_weight for one in regions.values()})
    return [sorted(name for name, one in regions.items() if one.price_weight == price) for price in prices]


def _fill(left: dict[str, float], rooms: Mapping[str, float], shares: Shares) -> None:
    """Fill one price's rooms in proportion: every origin with its part, every room with its part."""
    room, need = sum(rooms.values()), sum(left.values())
    taken = min(room, need)
    if taken <= 0.0:
        return
    for origin, wanted in left.items():
        part = wanted * taken / need
        for name, one in rooms.items():
            if (amount := part * one / room) > 0.0:
                shares[origin][name] = amount
        left[origin] = max(0.0, wanted - part)


def helped_demand(region: str, shares: Shares) -> float:
    """Demand of other regions that `region` is to cover."""
    return sum(parts.get(region, 0.0) for origin, parts in shares.items() if origin != region)
