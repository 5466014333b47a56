"""What a worker knows of itself."""

from dataclasses import dataclass

import pytest
from unit.worker.conftest import MakeSettings

from tandem_api.worker import KVCounters, KVLoad, Role, WorkerState
from tandem_worker.engine_api import EngineLoad, read_load
from tandem_worker.kv_ranks import KVReport, sum_loads, sum_ranks
from tandem_worker.metrics import render_metrics
from tandem_worker.vital_signs import FRESH_S, KV_SILENCE_S, Signs, VitalSigns, build_state

METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25"""


def test_load_is_summed_over_ranks_and_usage_averaged() -> None:
    assert read_load(METRICS) == EngineLoad(running=4, waiting=2, kv_usage=0.375)


def test_an_engine_without_metrics_has_no_load() -> None:
    assert read_load("") == EngineLoad()


def test_ranks_of_one_engine_share_their_leases_and_add_their_bytes() -> None:
    rank = {"leases": 2, "bytes_sent": 10, "failures": {"peer_died": 1}, "transfer_seconds": 0.5}
    report = sum_ranks([rank, {**rank, "leases": 3}])
    assert report.leases == 3
    assert report.counters == KVCounters(bytes_sent=20, failures=2, transfer_seconds=1.0)
    assert report.failures == {"peer_died": 2}


def test_circuits_of_all_ranks_are_named_by_worker() -> None:
    ranks = [{"circuits_open": ["10.0.0.7:5600", "fd00::2:5600"]}, {"circuits_open": ["10.0.0.7:5601"]}]
    assert sum_ranks(ranks).circuits_open == ("10.0.0.7", "fd00::2")


def test_a_load_over_ranks_has_the_bytes_of_all_and_the_tokens_of_the_least() -> None:
    whole = {"prefill": "10.0.0.7", "bytes_received": 8, "remote_tokens": 64, "recomputed_tokens": 0}
    part = {**whole, "bytes_received": 2, "remote_tokens": 16, "recomputed_tokens": 48}
    expected = KVLoad(prefill="10.0.0.7", bytes_received=10, remote_tokens=16, recomputed_tokens=48)
    assert sum_loads([whole, part]) == expected
    assert sum_loads([whole, None]) is None
    assert sum_loads([]) is None


def test_the_state_fits_into_a_kilobyte_at_its_largest(make_settings: MakeSettings) -> None:
    big = 2**53
    counters = KVCounters(**dict.fromkeys(KVCounters.model_fields, big))
    circuits = tuple(f"{number:039}" for number in range(9))
    signs = Signs(True, EngineLoad(big, big, 0.123456), KVReport(True, big, counters, circuits_open=circuits))
    fleet, revision = f"{'n' * 63}/{'f' * 40}", "r" * 63
    settings = make_settings(Role.PREFILL, fleet=fleet, kv_revision=revision)
    state = build_state(settings, "i" * 32, big, signs, draining=False)
    assert state.circuits_open
    assert len(state.model_dump_json()) <= 1024
    assert WorkerState.model_validate_json(state.model_dump_json()) == state


@pytest.mark.parametrize(
    ("healthy", "kv_answers", "draining", "ready"),
    [(True, True, False, True), (False, True, False, False), (True, False, False, False), (True, True, True, False)],
)
def test_ready_means_healthy_with_kv_and_not_draining(
    make_settings: MakeSettings, *, healthy: bool, kv_answers: bool, draining: bool, ready: bool
) -> None:
    signs = Signs(healthy, EngineLoad(), KVReport(kv_answers))
    assert build_state(make_settings(), "i", 8, signs, draining=draining).ready is ready


def test_metrics_carry_transfers_by_direction_and_failures_by_reason(make_settings: MakeSettings) -> None:
    kv = KVReport(True, 4, KVCounters(bytes_sent=7, failures=3), {"peer_died": 3})
    state = build_state(make_settings(Role.PREFILL), "i", 8, Signs(True, EngineLoad(), kv), draining=False)
    text = render_metrics(state, kv).decode()
    assert 'tandem_worker_kv_transfer_bytes_total{direction="sent",role="prefill"} 7.0' in text
    assert 'tandem_worker_kv_failures_total{reason="peer_died",role="prefill"} 3.0' in text
    assert 'tandem_worker_kv_leases{role="prefill"} 4.0' in text


def test_a_fallback_is_in_the_state_and_counted_by_reason(make_settings: MakeSettings) -> None:
    ranks = [{"fallback": None, "fallbacks": {}}, {"fallback": "nccl_versions_differ", "fallbacks": {"x": 2}}]
    kv = sum_ranks([*ranks, {"fallbacks": {"x": 1}}])
    state = build_state(make_settings(Role.DECODE), "i", 8, Signs(True, EngineLoad(), kv), draining=False)
    assert state.kv_fallback == "nccl_versions_differ"
    assert 'tandem_worker_kv_fallbacks_total{reason="x",role="decode"} 3.0' in render_metrics(state, kv).decode()


@dataclass
class FakeEngine:
    """Stands for engine and ranks; counts how often it is asked."""

    kv_answers: bool = True
    metrics: str | None = METRICS
    asked: int = 0
    leases: int = 0
    stuck: str | None = None

    async def is_healthy(self) -> bool:
        self.asked += 1
        return True

    async def fetch_metrics(self) -> str | None:
        return self.metrics

    async def fetch_report(self) -> KVReport:
        return KVReport(self.kv_answers, self.leases if self.kv_answers else 0, stuck=self.stuck)


class Clock:
    """Time that moves when told to."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_many_askers_cost_as_much_as_one() -> None:
    engine, clock = FakeEngine(), Clock()
    signs = VitalSigns(engine, engine, clock)  # type: ignore[arg-type] # a stand-in for both
    for _ in range(10):
        assert (await signs.observe()).load.running == 4
    assert engine.asked == 1
    clock.now_s += FRESH_S * 1.1
    await signs.observe()
    assert engine.asked == 2


async def test_kv_that_never_spoke_is_starting_and_kv_that_fell_silent_is_stuck() -> None:
    engine, clock = FakeEngine(kv_answers=False), Clock()
    signs = VitalSigns(engine, engine, clock)  # type: ignore[arg-type] # a stand-in for both
    await signs.listen_to_kv()
    clock.now_s += 10 * KV_SILENCE_S
    assert not signs.is_kv_stuck
    engine.kv_answers = True
    await signs.listen_to_kv()
    engine.kv_answers = False
    clock.now_s += KV_SILENCE_S * 0.9
    await signs.listen_to_kv()
    assert not signs.is_kv_stuck
    clock.now_s += KV_SILENCE_S * 0.2
    assert signs.is_kv_stuck


async def test_kv_that_says_that_it_is_stuck_is_believed() -> None:
    engine = FakeEngine()
    signs = VitalSigns(engine, engine, Clock())  # type: ignore[arg-type] # a stand-in for both
    await signs.listen_to_kv()
    assert signs.kv_fault is None
    engine.stuck = "the abort of a communicator does not return"
    await signs.listen_to_kv()
    assert signs.kv_fault == "the abort of a communicator does not return"


async def test_an_engine_too_busy_to_answer_is_not_taken_for_an_idle_one() -> None:
    engine, clock = FakeEngine(), Clock()
    signs = VitalSigns(engine, engine, clock)  # type: ignore[arg-type] # a stand-in for both
    assert (await signs.observe()).load.running == 4
    engine.metrics = None
    clock.now_s += 1
    assert (await signs.observe()).load.running == 4


async def test_totals_stand_while_the_kv_ranks_do_not_answer() -> None:
    engine, clock = FakeEngine(leases=3), Clock()
    signs = VitalSigns(engine, engine, clock)  # type: ignore[arg-type] # a stand-in for both
    await signs.listen_to_kv()
    engine.kv_answers = False
    kv = await signs.listen_to_kv()
    assert (kv.answering, kv.leases) == (False, 3)
