"""Prometheus' text form of the router's own counters."""

from collections.abc import Iterable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tandem_router.fleets import Catalog
from tandem_router.gateway.service import Gateway
from tandem_router.metrics import HISTOGRAMS, Metrics
from tandem_router.regions.border import Border
from tandem_router.regions.exposition import RegionCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
PREFIX = "tandem_router_"


class RouterCollector(Collector):
    """Reads the counters when asked."""

    def __init__(self, metrics: Metrics, catalog: Catalog, now_s: float, gateway: Gateway) -> None:
        self._metrics = metrics
        self._catalog = catalog
        self._now_s = now_s
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        """All metric families."""
        yield from self._histograms()
        yield from self._counters()
        yield from self._gauges()
        yield from self._gate()

    def _histograms(self) -> Iterator[Metric]:
        for name, (_, text) in HISTOGRAMS.items():
            family = HistogramMetricFamily(f"{PREFIX}{name}_seconds", text, labels=["model"])
            for model, counted in self._metrics.models.items():
                histogram = counted.histograms[name]
                family.add_metric([model], histogram.cumulative(), histogram.total)
            yield family

    def _counters(self) -> Iterator[Metric]:
        models = self._metrics.models.items()
        yield counter("requests", "Requests by outcome.", "outcome", ((m, c.outcomes) for m, c in models))
        yield counter("tokens", "Tokens as the engines counted them.", "kind", ((m, c.tokens) for m, c in models))
        yield counter("routes", "Decisions by reason.", "reason", ((m, c.routes) for m, c in models))
        yield counter("retries", "Legs tried elsewhere.", "leg", ((m, c.retries) for m, c in models))
        yield counter("hedges", "Late prefills begun on a second worker.", "event", ((m, c.hedges) for m, c in models))
        refused = CounterMetricFamily(
            f"{PREFIX}refused", "Requests refused before they were accepted.", labels=["status"]
        )
        for status, count in self._metrics.refused.items():
            refused.add_metric([status], count)
        yield refused

    def _gate(self) -> Iterator[Metric]:
        """Never by tenant: this page is open to whoever reaches the listener. Their usage is on the internal one."""
        gateway = self._gateway
        text = "Requests whose credentials opened nothing."
        yield CounterMetricFamily(f"{PREFIX}failed_logins", text, value=gateway.failed_logins)
        limited = CounterMetricFamily(f"{PREFIX}limited", "Requests over a limit of their tenant.", labels=["limit"])
        for limit, count in gateway.limited.items():
            limited.add_metric([limit], count)
        yield limited
        text = "1 while the tenants file cannot be used and an earlier one serves."
        yield GaugeMetricFamily(f"{PREFIX}tenants_file_refused", text, value=gateway.refused is not None)

    def _gauges(self) -> Iterator[Metric]:
        inflight = GaugeMetricFamily(f"{PREFIX}inflight", "Requests in flight.", labels=["model"])
        for model, counted in self._metrics.models.items():
            inflight.add_metric([model], counted.inflight)
        yield inflight
        queued = GaugeMetricFamily(f"{PREFIX}queued", "Requests that wait for a worker.", labels=["fleet"])
        usable = GaugeMetricFamily(f"{PREFIX}workers", "Workers that can take requests.", labels=["fleet", "role"])
        for fleet in self._catalog.fleets.values():
            queued.add_metric([fleet.key], len(fleet.queue))
            for role, count in count_roles(worker.spec.role for worker in fleet.usable(self._now_s)).items():
                usable.add_metric([fleet.key, role], count)
        yield queued
        yield usable


def counter(name: str, text: str, label: str, rows: Iterable[tuple[str, dict[str, int]]]) -> CounterMetricFamily:
    """A family of counters by model and one more label."""
    family = CounterMetricFamily(PREFIX + name, text, labels=["model", label])
    for model, counts in rows:
        for value, count in counts.items():
            family.add_metric([model, str(value)], count)
    return family


def count_roles(roles: Iterable[str]) -> dict[str, int]:
    """How often each role occurs."""
    counts: dict[str, int] = {}
    for role in roles:
        counts[role] = counts.get(role, 0) + 1
    return counts


def render(metrics: Metrics, catalog: Catalog, now_s: float, gateway: Gateway, border: Border | None = None) -> bytes:
    """The whole page."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RouterCollector(metrics, catalog, now_s, gateway))
    if border is not None:
        registry.register(RegionCollector(border.atlas, border.tally, now_s))
    return generate_latest(registry)
