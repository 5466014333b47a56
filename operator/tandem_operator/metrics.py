"""Prometheus instruments, in a registry of their own, so that two operators fit in one process of a test."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_RECONCILE_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)


class Metrics:
    """What the operator measures of itself. Labels are bounded: verbs, kinds and status codes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "tandem_operator_reconcile_seconds",
            "Time of one reconciliation of one fleet.",
            ["outcome"],
            buckets=_RECONCILE_BUCKETS,
            registry=self.registry,
        )
        self.api_calls = Counter(
            "tandem_operator_api_calls_total",
            "Calls to the API server.",
            ["verb", "kind", "code"],
            registry=self.registry,
        )
        self.queue_depth = Gauge("tandem_operator_queue_depth", "Fleets that wait.", registry=self.registry)
        self.leader = Gauge("tandem_operator_leader", "1 while this replica holds the lease.", registry=self.registry)
        self.evicted = Counter(
            "tandem_operator_sweep_evictions_total",
            "Objects that a sweep found gone without an event; should stay 0.",
            ["kind"],
            registry=self.registry,
        )

    def render(self) -> bytes:
        """Text exposition."""
        return generate_latest(self.registry)
