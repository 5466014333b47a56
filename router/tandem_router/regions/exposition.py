"""Prometheus' text form of what is known of regions. Labels are regions that are configured, reasons and outcomes."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tandem_router.regions.atlas import Atlas
from tandem_router.regions.peer import STATES
from tandem_router.regions.tally import RegionTally

PREFIX = "tandem_router_region_"


class RegionCollector(Collector):
    """Reads the counts when asked. Time is of the loop's clock."""

    def __init__(self, atlas: Atlas, tally: RegionTally, now_s: float) -> None:
        self._atlas, self._tally, self._now_s = atlas, tally, now_s

    def collect(self) -> Iterator[Metric]:
        """All metric families."""
        tally = self._tally
        yield counts(
            "choices", "Choices of a region, by reason.", ["reason"], {(k,): v for k, v in tally.choices.items()}
        )
        text = "Requests given to another region, by how that ended."
        yield counts("forwards", text, ["region", "end"], tally.forwards)
        text = "Requests that came from another region, by outcome."
        yield counts("received", text, ["region", "outcome"], tally.received)
        text = "Requests that residency forbade: no region allowed, none reachable, or refused as another region's."
        yield counts("residency_refusals", text, ["where"], {(k,): v for k, v in tally.refusals.items()})
        yield counts("transitions", "Changes of a peer's state.", ["region", "state"], tally.transitions)
        yield self._ttft()
        yield from self._peers()

    def _ttft(self) -> Metric:
        text = "Time to first token of this region's clients, by the region that served."
        family = HistogramMetricFamily(f"{PREFIX}ttft_seconds", text, labels=["region"])
        for region, histogram in self._tally.ttft.items():
            family.add_metric([region], histogram.cumulative(), histogram.total)
        return family

    def _peers(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(f"{PREFIX}state", "1 for the state that a peer is in.", labels=["region", "state"])
        rtt = GaugeMetricFamily(f"{PREFIX}rtt_seconds", "The way to a peer and back, smoothed.", labels=["region"])
        accepts = GaugeMetricFamily(
            f"{PREFIX}accepts", "Share of its part that a peer may be given.", labels=["region"]
        )
        text = "Requests that a peer's decode workers could take more."
        headroom = GaugeMetricFamily(f"{PREFIX}headroom_slots", text, labels=["region"])
        for name, peer in self._atlas.peers.items():
            for one in STATES:
                state.add_metric([name, one], float(peer.state == one))
            if peer.rtt_s is not None:
                rtt.add_metric([name], peer.rtt_s)
            accepts.add_metric([name], peer.accepts(self._now_s))
            loads = [digest.load for digest in peer.fleets().values()]
            headroom.add_metric([name], sum(max(0, load.free_slots - load.waiting_decode) for load in loads))
        yield from (state, rtt, accepts, headroom)


def counts(name: str, text: str, labels: list[str], values: Mapping[tuple[str, ...], int]) -> CounterMetricFamily:
    """A family of counters."""
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for key, count in values.items():
        family.add_metric(list(key), count)
    return family
