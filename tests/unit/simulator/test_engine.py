"""The analytic decode worker against one that does every step."""

import random

import pytest

from tandem_core.profiles import find_profile
from tandem_simulator.engine.decode import DecodeWorker

MODEL = find_profile("70b-h100-tp4").performance


def test_one_request_takes_the_sum_of_its_steps():
    """Each step reads one token more than the last."""
    worker = DecodeWorker(MODEL, 0.0)
    first_s = worker.join(0, 1000, 200, 0.0)
    assert first_s == pytest.approx(MODEL.decode_step_s(1, 1000))
    summed_s = sum(MODEL.decode_step_s(1, 1000 + step) for step in range(200))
    assert worker.next_end_s() == pytest.approx(summed_s, rel=1e-3)


def stepwise_ends(joins):
    """Reference: do every step; joins take effect at the next step's start."""
    now_s, waiting, running, ends = 0.0, sorted(joins), {}, {}
    while waiting or running:
        if not running and waiting[0][0] > now_s:
            now_s = waiting[0][0]
        while waiting and waiting[0][0] <= now_s:
            _, request, prompt, output = waiting.pop(0)
            running[request] = [prompt, output]
        now_s += MODEL.decode_step_s(len(running), sum(held for held, _ in running.values()))
        for request in list(running):
            running[request][0] += 1
            running[request][1] -= 1
            if running[request][1] == 0:
                ends[request] = now_s
                del running[request]
    return ends


@pytest.mark.parametrize("seed", range(5))
def test_many_requests_end_when_a_stepwise_engine_ends_them(seed):
    """Within two steps each, over joins and leaves at any time."""
    rng = random.Random(seed)
    joins = sorted((rng.uniform(0, 20), number, rng.randint(10, 4000), rng.randint(1, 300)) for number in range(60))
    expected, found = stepwise_ends(joins), {}
    worker = DecodeWorker(MODEL, 0.0)

    def run_until(until_s):
        while (at_s := worker.next_end_s()) <= until_s:
            worker.advance(at_s)
            for request in worker.take_ended():
                found[request] = at_s

    for at_s, request, prompt, output in joins:
        run_until(at_s)
        worker.join(request, prompt, output, at_s)
    run_until(1e9)
    assert found.keys() == expected.keys()
    for request, at_s in expected.items():
        assert found[request] == pytest.approx(at_s, abs=2 * MODEL.decode_step_s(60, 200_000))
    assert worker.sequences == worker.reserved_tokens == 0
    assert worker.kv_tokens == pytest.approx(0.0, abs=1.0)


def test_a_worker_that_dies_names_what_it_lost():
    """And holds nothing any more."""
    worker = DecodeWorker(MODEL, 0.0)
    worker.join(7, 10, 10, 0.0)
    worker.join(8, 10, 10, 0.1)
    assert sorted(worker.abandon()) == [7, 8]
    assert worker.next_end_s() == float("inf")
