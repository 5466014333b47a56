"""Whole runs: conservation, cost, starts, drains, faults, and that equal seeds are equal."""

from dataclasses import replace

import numpy as np
import pytest

from tandem_simulator.conditions import Sizes
from tandem_simulator.faults import Faults
from tandem_simulator.policies.fixed import StaticPolicy
from tandem_simulator.policies.naming import parse_policy
from tandem_simulator.pool import Startup
from tandem_simulator.scenario import Scenario, run_policy

from .worlds import even, fleet, poisson


class Switch:
    """One size until a time, another afterwards."""

    name, interval_s, sees_staleness = "switch", 10.0, False

    def __init__(self, before, after, at_s):
        self._before, self._after, self._at_s = before, after, at_s

    def decide(self, view):
        return self._before if view.now_s < self._at_s else self._after

    def explain(self):
        return []


def static(scenario, prefill, decode):
    return run_policy(scenario, scenario.workload(), lambda _: StaticPolicy(Sizes(prefill, decode)))


@pytest.fixture
def cold(tmp_path):
    """Starts with the replicas of the object (2 + 2), everything scored."""
    return lambda trace, **changes: Scenario(fleet(tmp_path), trace, warm=False, **changes)


def test_an_unloaded_request_takes_prefill_transfer_and_one_step(cold):
    """TTFT is the sum of its parts; TPOT the step of a batch of one."""
    scenario = cold(even(20, 10.0, 2048, 50))
    outcome, _, _ = static(scenario, 2, 2)
    spec = scenario.engine()
    parts_s = spec.model.prefill_s(2048) + spec.transfer_s(2048) + spec.model.decode_step_s(1, 2048)
    assert outcome.ttft_s["p50"] == pytest.approx(parts_s, rel=1e-6)
    assert outcome.tpot_s["p50"] == pytest.approx(spec.model.decode_step_s(1, 2073), rel=0.01)
    assert outcome.attainment == 1.0


def test_every_request_ends_once_and_cost_is_workers_times_time(cold):
    """Four workers of four GPUs for the whole span, nothing started."""
    outcome, run, _ = static(cold(poisson(5, 600)), 2, 2)
    ended = sorted(one.request for one in run.journal.ended)
    assert ended == list(range(outcome.requests))
    assert outcome.gpu_hours == pytest.approx(16 * run.horizon_s / 3600)
    assert (outcome.starts, outcome.failed, outcome.unfinished) == (0, 0, 0)


def test_times_of_a_request_are_in_order(cold):
    """Arrival, prefill, KV, first token, last token."""
    scenario = cold(poisson(8, 300))
    _, run, _ = static(scenario, 2, 2)
    journal = run.journal
    columns = [scenario.trace.arrival_s, journal.prefill_done_s, journal.joined_s]
    columns += [journal.first_token_s, np.array(journal.last_token_s) + 1e-9]
    assert all(np.all(np.diff(np.array(columns), axis=0) >= 0) for _ in (0,))


def test_the_same_seed_gives_the_same_run_and_another_does_not(cold):
    """Start-up times are the only draw here."""
    trace = poisson(10, 400)
    made = []
    for seed in (1, 1, 2):
        scenario = cold(trace, seed=seed)
        made.append(run_policy(scenario, scenario.workload(), lambda _: Switch(Sizes(2, 2), Sizes(5, 4), 50))[0])
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_a_new_worker_serves_after_its_start_and_is_paid_from_its_creation(cold):
    """Two more of each at 100 s, ready at about 220 s."""
    scenario = cold(poisson(5, 600))
    outcome, run, _ = run_policy(scenario, scenario.workload(), lambda _: Switch(Sizes(2, 2), Sizes(3, 2), 100))
    ready = {int(row[0]): row[1] for row in run.sizes}
    assert ready[180] == 2
    assert ready[280] == 3
    assert outcome.starts == 1
    assert outcome.prefill_worker_hours == pytest.approx((2 * run.horizon_s + run.horizon_s - 100) / 3600, rel=0.01)


def test_a_shrinking_pool_finishes_its_streams(cold):
    """Nothing fails, and draining workers are paid until they are empty."""
    scenario = cold(poisson(60, 300, prompt=100, output=400))
    outcome, run, _ = run_policy(scenario, scenario.workload(), lambda _: Switch(Sizes(2, 2), Sizes(2, 1), 200))
    assert outcome.failed == 0
    assert outcome.unfinished == 0
    assert outcome.decode_worker_hours > (200 * 2 + (run.horizon_s - 200) + 5) / 3600


def test_a_drain_that_takes_too_long_ends_its_streams(tmp_path):
    """drain.timeoutSeconds is the grace period."""
    slow = fleet(tmp_path, drain={"timeoutSeconds": 5})
    scenario = Scenario(slow, poisson(10, 200, output=2000), warm=False)
    outcome, _, _ = run_policy(scenario, scenario.workload(), lambda _: Switch(Sizes(2, 4), Sizes(2, 1), 100))
    assert outcome.failed > 0


def test_a_dead_prefill_worker_loses_no_request(cold):
    """What it was working on is prefilled again, and another worker is made."""
    outcome, run, _ = static(cold(poisson(5, 600), faults=Faults(kills=((200.0, "prefill"),))), 2, 2)
    assert outcome.failed == outcome.unfinished == 0
    assert outcome.starts == 1
    assert run.sizes[-1][1] == 2


def test_a_dead_decode_worker_breaks_only_streams_that_had_begun(cold):
    """The others are prefilled again; each ends once."""
    outcome, run, _ = static(cold(poisson(10, 600), faults=Faults(kills=((300.0, "decode"),))), 2, 2)
    assert 0 < outcome.failed < 200
    assert sorted(one.request for one in run.journal.ended) == list(range(outcome.requests))


def test_failed_and_slow_starts_take_longer():
    """Half fail once, or more; some take three times as long."""
    rng = np.random.default_rng(0)
    good = np.mean([Startup(100).draw_s(rng) for _ in range(300)])
    failing = np.mean([Startup(100, fail_share=0.5).draw_s(rng) for _ in range(300)])
    slow = np.mean([Startup(100, slow_factor=3.0, slow_share=1.0).draw_s(rng) for _ in range(300)])
    assert good == pytest.approx(100, rel=0.03)
    assert failing == pytest.approx(200, rel=0.15)
    assert slow == pytest.approx(300, rel=0.03)


def test_a_prompt_that_fits_no_worker_fails_typed(cold):
    """It does not wait for ever."""
    outcome, _, _ = static(cold(even(3, 1.0, 600_000, 10)), 2, 2)
    assert outcome.failed == 3
    assert outcome.attainment == 0.0


def test_kv_capacity_and_slots_are_never_exceeded(cold):
    """Looked at on every tick under overload."""
    scenario = cold(poisson(30, 200, prompt=8000, output=400))
    seen = []

    class Watch(StaticPolicy):
        interval_s = 1.0

        def __init__(self, simulation):
            super().__init__(Sizes(8, 2))
            self._pool, self._spec = simulation.decode.pool, simulation._conditions.spec

        def decide(self, view):
            for worker in self._pool.ready:
                seen.append(worker.engine.reserved_tokens / self._spec.kv_capacity_tokens)
                assert worker.engine.sequences <= self._spec.max_sequences
                assert worker.engine.kv_tokens <= worker.engine.reserved_tokens + 1
            return super().decide(view)

    run_policy(scenario, scenario.workload(), Watch)
    assert 0.8 < max(seen) <= 1.0


POLICIES = ["tandem", "static:3,3", "hpa:0.7", "queue-hpa:0.8", "dynamo", "velocity", "fixed-ratio"]


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_serves_every_request(tmp_path, name):
    """From a warm start, at a load that needs several workers."""
    scenario = Scenario(fleet(tmp_path), poisson(12, 500))
    workload = scenario.workload()
    outcome, _, policy = run_policy(scenario, workload, parse_policy(name, scenario, workload))
    assert outcome.unfinished == outcome.failed == 0
    assert policy.name == name
    assert outcome.attainment > 0.5


def test_lost_metrics_stop_hpa_and_make_tandem_hold(tmp_path):
    """No decision on data a minute old."""
    scenario = Scenario(fleet(tmp_path), poisson(12, 500), faults=Faults(blind_s=((250.0, 310.0),)))
    workload = scenario.workload()
    _, _, policy = run_policy(scenario, workload, parse_policy("tandem", scenario, workload))
    held = [one["at_s"] for one in policy.explain() if "hold" in one]
    assert held
    assert all(280 <= at_s < 310 for at_s in held)


def test_a_wrong_belief_changes_targets_not_hardware(tmp_path):
    """The engine keeps its speed; the estimate is a fifth off."""
    trace = even(20, 10.0, 2048, 50)
    right = Scenario(fleet(tmp_path), trace, warm=False)
    wrong = replace(right, faults=Faults(prefill_error=1.2, decode_error=1.2))
    assert static(right, 2, 2)[0].ttft_s == static(wrong, 2, 2)[0].ttft_s
    assert wrong.workload().isolated_s[0] == pytest.approx(1.2 * right.workload().isolated_s[0])
