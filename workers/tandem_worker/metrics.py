"""The worker's own Prometheus metrics, made from one observation: nothing is counted twice, nothing is kept here."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tandem_api.worker import WorkerState
from tandem_worker.kv_ranks import KVReport

PREFIX = "tandem_worker"


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def render_metrics(state: WorkerState, kv: KVReport) -> bytes:
    """Prometheus text of one worker. Labels are bounded: role, direction, reason."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*_worker_families(state), *_kv_families(state, kv)]))
    return generate_latest(registry)


def _worker_families(state: WorkerState) -> Iterable[Metric]:
    yield _gauge("ready", "1 when this worker takes requests.", state.ready, state)
    yield _gauge("draining", "1 while this worker finishes its streams before it ends.", state.draining, state)
    yield _gauge("kv_leases", "Requests whose KV blocks are kept until they are pulled.", state.leases, state)


def _kv_families(state: WorkerState, kv: KVReport) -> Iterable[Metric]:
    yield _gauge("kv_sessions", "Open KV sessions with other workers.", kv.sessions, state)
    yield _gauge(
        "kv_circuits_open", "Prefill workers that are left alone after failures.", len(kv.circuits_open), state
    )
    yield _gauge("kv_communicators", "NCCL communicators that are open.", kv.communicators, state)
    yield _gauge("kv_communicator_bytes", "GPU memory of NCCL communicators.", kv.communicator_bytes, state)
    moved = CounterMetricFamily(f"{PREFIX}_kv_transfer_bytes", "KV bytes handed over.", labels=["role", "direction"])
    moved.add_metric([state.role, "sent"], kv.counters.bytes_sent)
    moved.add_metric([state.role, "received"], kv.counters.bytes_received)
    yield moved
    yield _counter("kv_transfers", "Requests whose KV was handed over.", kv.counters.transfers, state)
    yield _counter("kv_transfer_seconds", "Time spent handing KV over.", kv.counters.transfer_seconds, state)
    yield _counter("kv_remote_tokens", "Prompt tokens whose KV came from elsewhere.", kv.counters.remote_tokens, state)
    yield _counter(
        "kv_recomputed_tokens",
        "Prompt tokens computed again after a failed transfer.",
        kv.counters.recomputed_tokens,
        state,
    )
    yield _by_reason("kv_failures", "Failed KV transfers.", kv.failures, state)
    yield _by_reason("kv_fallbacks", "KV sessions over tcp though nccl was asked for.", kv.fallbacks, state)


def _by_reason(name: str, text: str, counts: Mapping[str, int], state: WorkerState) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=["role", "reason"])
    for reason, count in sorted(counts.items()):
        family.add_metric([state.role, reason], count)
    return family


def _gauge(name: str, text: str, value: float, state: WorkerState) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["role"])
    family.add_metric([state.role], value)
    return family


def _counter(name: str, text: str, value: float, state: WorkerState) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=["role"])
    family.add_metric([state.role], value)
    return family
