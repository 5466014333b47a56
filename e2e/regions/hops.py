"""How often requests crossed, by the routers' own counters: what arrives was sent once, and nothing is sent on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

from regions.world import World

_FORWARDS = "tandem_router_region_forwards"
_RECEIVED = "tandem_router_region_received"


@dataclass(frozen=True)
class Hops:
    """All regions together, since their routers started.

    Attributes:
        routers: addresses of those that were asked.
        sent: requests given to another region, by how that ended; `received`: those that came from one, likewise.
    """

    routers: tuple[str | None, ...] = ()
    sent: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)

    def since(self, before: Hops) -> Hops:
        """What came since; nothing is known where a router has begun anew."""
        if self.routers != before.routers:
            return Hops()
        return Hops(self.routers, self.sent - before.sent, self.received - before.received)

    def faults(self, under_way: int) -> Iterator[str]:
        """What must not be. `under_way`: requests that had been sent, and had not ended, at the beginning."""
        if self.received.total() > self.sent.total() + under_way:
            yield f"{self.received.total()} requests arrived of {self.sent.total()} that were sent: a loop"

    def __str__(self) -> str:
        return (
            f"{self.sent.total()} requests sent across, {self.received.total()} arrived; they ended {dict(self.sent)}"
        )


async def fetch_hops(world: World) -> Hops:
    """Of all regions; of nobody, while one of them has no router that answers."""
    addresses = tuple(region.router for region in world.regions.values())
    if None in addresses or any(region.is_dead for region in world.regions.values()):
        return Hops()
    hops = Hops(addresses)
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        for region in world.regions.values():
            try:
                answer = await client.get(f"{region.entry}/metrics")
            except httpx.HTTPError:
                return Hops()
            _add(hops, answer.text)
    return hops


def _add(hops: Hops, text: str) -> None:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{_FORWARDS}_total":
                hops.sent[sample.labels["end"]] += int(sample.value)
            elif sample.name == f"{_RECEIVED}_total":
                hops.received[sample.labels["outcome"]] += int(sample.value)
