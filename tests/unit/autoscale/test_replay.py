"""Replay of arrivals through a queue: what queueing theory says, and what bursts do."""

import random

import pytest

from tandem_operator.autoscale.replay import count_misses, smallest_pool


def jobs_of(arrivals, service_s, target_s):
    return [(at, service_s, at + target_s - service_s, target_s) for at in arrivals]


def test_simultaneous_prompts_need_enough_workers_to_finish_in_time():
    """Ten prompts of 0.5 s at once with 1 s each: two per worker, so five workers."""
    jobs = jobs_of([0.0] * 10, 0.5, 1.0)
    assert count_misses(jobs, 5, 10) == 0
    assert count_misses(jobs, 4, 10) == 2
    assert smallest_pool(jobs, 0.0, 1, 1, 100) == 5


def test_evenly_spaced_prompts_need_no_more_than_their_work():
    """4 workers busy without variance: exactly 4."""
    jobs = jobs_of([number * 0.1 for number in range(3000)], 0.4, 0.5)
    assert smallest_pool(jobs, 0.0, 1, 1, 100) == 4


def test_random_arrivals_need_what_the_erlang_delay_formula_says():
    """M/D/c at 70 % of one worker with a wait of at most 4 services: 1 worker misses little, at 95 % it misses much."""
    rng = random.Random(3)

    def poisson(rate):
        at, times = 0.0, []
        for _ in range(5000):
            at += rng.expovariate(rate)
            times.append(at)
        return times

    assert smallest_pool(jobs_of(poisson(0.7), 1.0, 9.0), 0.02, 1, 1, 10) == 1
    assert smallest_pool(jobs_of(poisson(0.95), 1.0, 5.0), 0.02, 1, 1, 10) == 2


@pytest.mark.parametrize("guess", [1, 3, 7, 12, 50])
def test_the_answer_does_not_depend_on_the_guess(guess):
    """The guess only saves time."""
    rng = random.Random(5)
    jobs = jobs_of(sorted(rng.uniform(0, 100) for _ in range(800)), 0.8, 2.0)
    assert smallest_pool(jobs, 0.01, guess, 1, 64) == smallest_pool(jobs, 0.01, 1, 1, 64)


def test_what_no_pool_can_hold_ends_at_the_most():
    """The limit is reported by the caller; the search does not run away."""
    assert smallest_pool(jobs_of([0.0] * 100, 1.0, 1.0), 0.0, 1, 1, 10) == 10


def test_deadline_order_needs_fewer_workers_than_first_come():
    """Long prompts with long targets let short ones pass."""
    rng = random.Random(11)
    jobs, at = [], 0.0
    for _ in range(4000):
        at += rng.expovariate(8.0)
        service = 8.0 if rng.random() < 0.05 else 0.2
        target = max(2.0, 3 * service)
        jobs.append((at, service, at + target - service, target))
    pool = smallest_pool(jobs, 0.01, 1, 1, 50)
    assert misses_in_order_of_arrival(jobs, pool) > 0.01 * len(jobs)


def misses_in_order_of_arrival(jobs, workers):
    free, misses = [0.0] * workers, 0
    for arrival, service, latest, _ in jobs:
        free.sort()
        start = max(free[0], arrival)
        free[0] = start + service
        misses += latest < start
    return misses


def test_nothing_to_replay_needs_no_worker():
    """And a pool that may have none gets none."""
    assert smallest_pool([], 0.01, 5, 1, 10) == 0
    assert smallest_pool(jobs_of([0.0], 1.0, 2.0), 0.0, 1, 1, 0) == 0
