"""Decisions: what is needed, what is allowed, what is held, and that each says why."""

from dataclasses import replace
from math import ceil

import pytest

from tandem_operator.autoscale.decide import decide
from tandem_operator.autoscale.demand import Bin, DemandHistory, Gauges
from tandem_operator.autoscale.memory import Memory
from tandem_operator.autoscale.observation import PoolState
from tandem_operator.autoscale.settings import BadSettingsError, PoolLimits, Ratio, Settings

from .fleets import NOW, PROFILE, SETTINGS, seen, steady

NAN = float("nan")
LONG_RUNNING = Memory(last_decided_s=NOW - 10)


def decided(observation, settings=SETTINGS, memory=None):
    """With the memory of a fleet that has long been running, and needed nothing in the last start-up time."""
    return decide(settings, observation, memory or LONG_RUNNING)[0]


def term(pool, name):
    return next(one.value for one in pool.terms if one.name == name)


def test_prefill_covers_the_work_that_arrives():
    """20 prompts a second of 1,000 tokens keep so many workers busy; the pool is that, with growth, rounded up."""
    decision = decided(seen(steady(20.0)))
    busy = 20 * PROFILE.performance.prefill_s(1000)
    assert term(decision.prefill, "workRate") == pytest.approx(busy, rel=0.01)
    assert decision.prefill.workers >= ceil(busy * SETTINGS.method.prefill_prior)
    assert decision.prefill.workers <= ceil(busy * SETTINGS.method.prefill_prior) + 1
    assert decision.prefill.bound == "need"


def test_decode_moves_towards_inflow_times_residency():
    """100 rps × 8 s = 800 sequences; 256 slots a worker, and the first margin for growth."""
    history = steady(100.0, 200)
    decision = decided(seen(history, gauges=Gauges(decode_sequences=800, decode_kv_tokens=160_000)))
    assert term(decision.decode, "sequences") == pytest.approx(800, rel=0.02)
    assert decision.decode.workers == ceil(800 * SETTINGS.method.decode_prior / 256)


def test_growing_decode_load_is_met_before_it_is_there():
    """Load is still zero, but inflow × residency says what is coming."""
    assert decided(seen(steady(100.0, 200))).decode.workers >= 4


def test_a_backlog_adds_workers_until_it_is_drained():
    """An hour of queued work cannot wait for the normal rate."""
    calm = decided(seen(steady(5.0)))
    queue = Gauges(queued_steps=2000, queued_tokens=2_000_000, queued_square_tokens=2e9)
    swamped = decided(seen(steady(5.0), gauges=queue))
    assert swamped.prefill.workers > calm.prefill.workers
    assert term(swamped.prefill, "backlog") > 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"newest_s": None}, "NoData"),
        ({"newest_s": NOW - 31}, "StaleData"),
        ({"newest_s": NOW + 3600}, "DataFromTheFuture"),
        ({"sources_fresh": 0}, "NoData"),
        ({"demand": DemandHistory()}, "NoData"),
        ({"gauges": Gauges(decode_sequences=NAN)}, "BadData"),
        ({"gauges": Gauges(queued_tokens=-5.0)}, "BadData"),
        ({"residual": NAN}, "BadData"),
        ({"prefill": PoolState(7, 7, startup_s=NAN)}, "BadData"),
        ({"now_s": NAN}, "BadClock"),
    ],
)
def test_what_cannot_be_believed_changes_nothing(change, reason):
    """Hold, say why, and keep both sizes."""
    decision, memory = decide(SETTINGS, replace(seen(steady(20.0), prefill=7, decode=5), **change), Memory())
    assert decision.hold is not None
    assert decision.hold.reason == reason
    assert (decision.prefill.workers, decision.decode.workers) == (7, 5)
    assert memory == Memory()


def test_a_clock_that_goes_back_holds():
    """After a jump the windows mean something else."""
    _, memory = decide(SETTINGS, seen(steady(20.0)), Memory())
    decision = decided(replace(seen(steady(20.0)), now_s=NOW - 5), memory=memory)
    assert decision.hold is not None
    assert decision.hold.reason == "ClockWentBack"


def test_with_a_router_missing_the_pool_may_grow_and_not_shrink():
    """What it carries is unknown; what is known is a lower bound."""
    few = decided(seen(steady(1.0), prefill=9, decode=9, sources_fresh=1))
    assert (few.prefill.workers, few.prefill.bound) == (9, "sourceMissing")
    assert (few.decode.workers, few.decode.bound) == (9, "sourceMissing")
    assert decided(seen(steady(60.0), sources_fresh=1)).prefill.workers > 1


def test_a_model_that_does_not_fit_may_not_shrink_a_pool():
    """Fewer workers on a wrong model would be a guess."""
    assert decided(seen(steady(1.0), prefill=9, residual=0.4)).prefill.bound == "residual"


def test_workers_that_find_no_gpu_are_not_multiplied():
    """The scheduler has said no; asking for more does not help."""
    decision = decided(replace(seen(steady(60.0)), prefill=PoolState(desired=3, ready=2, pending_gpu_s=90.0)))
    assert (decision.prefill.workers, decision.prefill.bound) == (3, "noFreeGPUs")
    assert decision.prefill.needed > 3


@pytest.mark.parametrize(
    ("limits", "rate", "workers", "bound"),
    [
        (PoolLimits(4, 1, 2), 60.0, 2, "max"),
        (PoolLimits(4, 6, 9), 1.0, 6, "min"),
        (PoolLimits(4, 0, 9), 0.1, 1, "need"),
    ],
)
def test_min_and_max_are_kept_and_named(limits, rate, workers, bound):
    """`needed` still shows what was wanted."""
    decision = decided(seen(steady(rate)), replace(SETTINGS, prefill=limits))
    assert (decision.prefill.workers, decision.prefill.bound) == (workers, bound)


def test_the_ratio_raises_the_pool_that_is_too_small():
    """At least three prefill workers for two decode workers."""
    settings = replace(SETTINGS, ratio=Ratio(1.5, 2.0))
    decision = decided(seen(steady(100.0, 10)), settings)
    assert decision.prefill.bound == "ratio.min"
    assert decision.prefill.workers >= decision.decode.workers * 1.5


def test_the_gpu_budget_is_never_exceeded_and_cuts_both():
    """40 GPUs are ten workers; both pools give way in proportion."""
    settings = replace(SETTINGS, gpu_budget=40)
    decision = decided(seen(steady(200.0, 800)), settings)
    assert decision.prefill.workers * 4 + decision.decode.workers * 4 == 40
    assert decision.prefill.bound == "gpuBudget"
    assert decision.decode.bound == "gpuBudget"


def test_a_pool_waits_for_the_others_ready_workers_before_it_shrinks():
    """Decode shrinks only when the prefill workers that are ready still fit the ratio."""
    settings = replace(SETTINGS, ratio=Ratio(0.0, 2.0))
    observation = replace(seen(steady(1.0)), prefill=PoolState(4, 4), decode=PoolState(4, 4))
    assert decided(observation, settings).decode.bound == "readyRatio"


def test_one_decision_moves_no_further_than_a_step():
    """`max_step` bounds how often groups are rebuilt."""
    settings = replace(SETTINGS, max_step=2)
    assert decided(seen(steady(100.0)), settings).prefill.workers == 3
    assert decided(seen(steady(1.0), prefill=9), settings).prefill.workers == 7


def test_a_pool_keeps_its_size_for_one_start_up_after_it_was_needed():
    """Then it shrinks."""
    _, memory = decide(SETTINGS, seen(steady(40.0)), Memory())
    big = memory.prefill.targets[-1].workers
    soon = replace(seen(steady(1.0, until_s=NOW + 100), prefill=big), now_s=NOW + 100, newest_s=NOW + 100)
    assert decided(soon, memory=memory).prefill.bound == "hold"
    assert decided(soon, memory=memory).prefill.workers == big
    later = replace(seen(steady(1.0, until_s=NOW + 130), prefill=big), now_s=NOW + 130, newest_s=NOW + 130)
    assert decided(later, memory=memory).prefill.workers < big


def test_a_new_leader_without_memory_does_not_shrink_what_it_finds():
    """Its windows are its shortest; the sizes it finds count as needed just now."""
    first = decide(SETTINGS, seen(steady(1.0), prefill=9, decode=7), Memory())[0]
    assert (first.prefill.workers, first.prefill.bound) == (9, "hold")
    assert (first.decode.workers, first.decode.bound) == (7, "hold")


def test_lumpy_requests_need_more_decode_workers_than_even_ones():
    """The same mean KV load, in requests of 10,000 or of 120,000 tokens."""
    sizes = []
    for tokens, rate in ((10_000, 12.0), (120_000, 1.0)):
        held = Gauges(decode_sequences=8 * rate, decode_kv_tokens=8 * rate * tokens)
        sizes.append(decided(seen(steady(rate, tokens), gauges=held)).decode)
    assert term(sizes[0], "kvTokens") == pytest.approx(term(sizes[1], "kvTokens"), rel=0.02)
    assert sizes[1].workers > sizes[0].workers


def test_missed_targets_raise_the_floor_slowly_and_only_of_the_pool_at_fault():
    """An hour's peak becomes the floor while the budget is overspent."""
    _, memory = decide(SETTINGS, seen(steady(40.0)), Memory())
    peak, now = memory.prefill.targets[-1].workers, NOW
    for _ in range(60):
        now += 10
        history = steady(2.0, until_s=now)
        for second in range(int(now) - 10, int(now)):
            history.add_bin(Bin(second, prefill_misses=1.0))
        observation = replace(seen(history, prefill=peak, decode=5), now_s=now, newest_s=now)
        decision, memory = decide(SETTINGS, observation, memory)
    assert memory.prefill.level == 1.0
    assert memory.decode.level == 0.0
    assert (decision.prefill.workers, decision.prefill.bound) == (peak, "budget")


def test_an_idle_fleet_goes_to_zero_and_wakes_with_the_first_request():
    """Both pools together."""
    settings = replace(SETTINGS, prefill=PoolLimits(4, 0, 9), decode=PoolLimits(4, 0, 9), scale_to_zero_after_s=300.0)
    idle = decided(seen(steady(0.0)), settings)
    assert (idle.prefill.workers, idle.decode.workers, idle.prefill.bound) == (0, 0, "idle")
    history = steady(0.0)
    history.add_bin(Bin(int(NOW) - 1, arrivals=1, steps=1, new_tokens=100, square_tokens=1e4, prompt_tokens=100))
    awake = decided(replace(seen(history), prefill=PoolState(0, 0), decode=PoolState(0, 0)), settings)
    assert (awake.prefill.workers, awake.decode.workers) == (1, 1)


def test_paused_decides_and_does_not_act():
    """`needed` shows what it would do."""
    decision = decided(seen(steady(60.0), prefill=2), replace(SETTINGS, paused=True))
    assert (decision.prefill.workers, decision.prefill.bound) == (2, "paused")
    assert decision.prefill.needed > 2


def test_a_decision_explains_itself_in_status_and_in_one_sentence():
    """Inputs, terms and the bound that won."""
    decision = decided(seen(steady(20.0)))
    status = decision.to_status()["prefill"]
    assert status["bound"] == "need"
    assert set(status["terms"]) == {"workRate", "expected", "replay", "backlog"}
    assert decision.prefill.explain("prefill", 1).startswith(f"prefill 1 → {decision.prefill.workers}: needs")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda: PoolLimits(4, 5, 2), "min 5 and max 2"),
        (lambda: Ratio(3, 1), "ratio.min"),
        (lambda: replace(SETTINGS, gpu_budget=7), "gpuBudget"),
        (lambda: replace(SETTINGS, kv_capacity_tokens=0), "performanceProfile"),
        (lambda: replace(SETTINGS, max_step=0), "max_step"),
    ],
)
def test_impossible_settings_are_refused_by_field(change, field):
    """The message says what to change."""
    with pytest.raises(BadSettingsError, match=field):
        change()
    assert isinstance(SETTINGS, Settings)
