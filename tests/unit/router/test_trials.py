"""What routers tell of two templates that run side by side, and of the workers that would cost least to lose."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from unit.router.scripted import Bench, Engine, ask, die, die_mid_stream, running

from tandem_api.router import TRIAL_KEPT_S, FleetReport
from tandem_router.internal import build_fleet_report
from tandem_router.trials import DecayingSum, Trials, is_over

SIDE_BY_SIDE = [("decode", "old"), ("decode", "new")]


def told(trials: Trials) -> dict[str, list[tuple[int, ...]]]:
    return {one.template_revision: [tuple(b) for b in one.bins] for one in trials.tell(SIDE_BY_SIDE)}


def test_ends_and_faults_are_counted_by_template_and_time() -> None:
    now = [1000.0]
    trials = Trials(lambda: now[0])
    trials.note_end(["new", "old"], ttft_missed=True, tpot_missed=False)
    trials.note_fault("new")
    now[0] += 12
    trials.note_end(["new"], ttft_missed=False, tpot_missed=True)
    assert told(trials) == {"new": [(1000, 2, 1, 1, 0), (1010, 1, 0, 0, 1)], "old": [(1000, 1, 0, 1, 0)]}


def test_what_is_old_is_forgotten_and_memory_is_bounded() -> None:
    now = [0.0]
    trials = Trials(lambda: now[0])
    for _ in range(5000):
        now[0] += 10
        trials.note_fault("new")
    assert len(told(trials)["new"]) <= TRIAL_KEPT_S // 10 + 1
    now[0] += 2 * TRIAL_KEPT_S
    assert told(trials) == {"new": []}


def test_a_clock_that_steps_back_loses_nothing() -> None:
    now = [1000.0]
    trials = Trials(lambda: now[0])
    trials.note_fault("new")
    now[0] = 900.0
    trials.note_fault("new")
    assert told(trials) == {"new": [(1000, 2, 2, 0, 0)]}


def test_nothing_is_told_while_no_role_has_two_templates() -> None:
    trials = Trials(lambda: 0.0)
    trials.note_fault("p")
    assert trials.tell([("prefill", "p"), ("decode", "d"), ("decode", "d")]) == ()
    assert trials.tell([("decode", "x"), ("decode", "y")]) == ()


def test_useful_caches_are_forgotten_by_and_by() -> None:
    hits = DecayingSum(10.0)
    hits.add(100, 0.0)
    hits.add(100, 10.0)
    assert hits.value(10.0) == pytest.approx(150)
    assert hits.value(1000.0) < 1


@pytest.mark.parametrize(
    ("value", "target", "over"), [(2.0, 1.0, True), (1.0, 1.0, False), (None, 1.0, False), (2.0, None, False)]
)
def test_a_time_misses_its_target_only_when_both_are_known(
    value: float | None, target: float | None, over: bool
) -> None:
    assert is_over(value, target) is over


def totals(report: FleetReport) -> dict[str, list[int]]:
    """Per template: requests, failed, missed TTFT, missed TPOT."""
    return {
        one.template_revision: [sum(column) for column in zip(*(b[1:] for b in one.bins), strict=True)]
        for one in report.trials
    }


def report_of(bench: Bench) -> FleetReport:
    catalog = bench.router.catalog
    (fleet,) = catalog.fleets.values()
    return build_fleet_report(catalog, fleet, asyncio.get_running_loop().time())


def name_templates(bench: Bench) -> None:
    """Each worker is of a template with its own name."""
    (fleet,) = bench.router.catalog.fleets.values()
    for worker in fleet.workers.values():
        worker.spec = replace(worker.spec, template_revision=worker.name)


async def test_a_template_whose_workers_fail_is_told_also_when_clients_notice_nothing(tmp_path) -> None:
    engines = [Engine("p0", "prefill"), Engine("d0", "decode", die), Engine("d1", "decode")]
    async with running(tmp_path, engines) as bench:
        name_templates(bench)
        assert {(await ask(bench)).status for _ in range(6)} == {200}
        counts = totals(report_of(bench))
        assert counts["d1"][:2] == [6, 0]
        assert counts["d0"][0] == counts["d0"][1] >= 1
        assert counts["p0"][1] == 0


async def test_a_stream_that_breaks_counts_against_its_template(tmp_path) -> None:
    engines = [Engine("p0", "prefill"), Engine("d0", "decode", die_mid_stream), Engine("d1", "decode", die_mid_stream)]
    async with running(tmp_path, engines) as bench:
        name_templates(bench)
        await ask(bench, stream=True)
        failed = sum(b.failed for one in report_of(bench).trials for b in one.bins)
        assert failed == 1


async def test_a_worker_at_rest_is_not_told(tmp_path) -> None:
    async with running(tmp_path, [Engine("p0", "prefill"), Engine("d0", "decode")]) as bench:
        await ask(bench)
        assert all(load.inflight == 0 for load in report_of(bench).loads)
