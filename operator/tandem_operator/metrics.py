"""Prometheus instruments, in a registry of their own, so that two operators fit in one process of a test."""

from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tandem_operator.autoscale.decision import Decision

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

        self.decision_seconds = Histogram(
            "tandem_operator_decision_seconds",
            "Time of one decision on the sizes of one fleet.",
            buckets=_RECONCILE_BUCKETS,
            registry=self.registry,
        )
        self.decision_workers = Gauge(
            "tandem_operator_decision_workers",
            "Workers that the autoscaler last decided on.",
            ["fleet", "role"],
            registry=self.registry,
        )
        self.decision_needed = Gauge(
            "tandem_operator_decision_needed",
            "Workers that the load needs, before hold and limits.",
            ["fleet", "role"],
            registry=self.registry,
        )
        self.uncoverable = Gauge(
            "tandem_operator_decision_uncoverable_requests_per_second",
            "Requests to be expected that bounds, budget and GPUs of this region do not reach.",
            ["fleet"],
            registry=self.registry,
        )
        self.decisions = Counter(
            "tandem_operator_decision_total",
            "Decisions, by what set the size; `held` with its reason when nothing could be decided.",
            ["role", "bound", "hold"],
            registry=self.registry,
        )

    def observe_decision(self, fleet: str, decision: Decision, seconds: float) -> None:
        """One decision on one fleet."""
        self.decision_seconds.observe(seconds)
        hold = decision.hold.reason if decision.hold else ""
        if decision.hold is None:
            self.uncoverable.labels(fleet).set(decision.supply.uncoverable.requests_per_s)
        for role, pool in (("prefill", decision.prefill), ("decode", decision.decode)):
            self.decision_workers.labels(fleet, role).set(pool.workers)
            self.decision_needed.labels(fleet, role).set(pool.needed)
            self.decisions.labels(role, pool.bound, hold).inc()

    def forget_fleet(self, fleet: str) -> None:
        """A fleet is gone: its series go with it."""
        for gauge in (self.decision_workers, self.decision_needed):
            for role in ("prefill", "decode"):
                with suppress(KeyError):
                    gauge.remove(fleet, role)
        with suppress(KeyError):
            self.uncoverable.remove(fleet)

    def render(self) -> bytes:
        """Text exposition."""
        return generate_latest(self.registry)
