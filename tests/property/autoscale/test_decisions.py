"""Whatever the traffic and the limits: sizes are whole, bounded, within budget, and grow with load."""

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_core.profiles import find_profile
from tandem_core.targets import Objectives, ttft_target_s
from tandem_operator.autoscale.decide import decide
from tandem_operator.autoscale.demand import Arrival, Bin, DemandHistory, Gauges
from tandem_operator.autoscale.memory import Memory
from tandem_operator.autoscale.observation import Observation, PoolState
from tandem_operator.autoscale.settings import BadSettingsError, PoolLimits, Ratio, Settings

PROFILE = find_profile("70b-h100-tp4")
OBJECTIVES = Objectives(2.0, 0.05, 0.99, 0.99, 3.0)
NOW = 5_000


@st.composite
def fleets(draw):
    """Settings that are accepted, of any shape."""
    limits = []
    for _ in range(2):
        low = draw(st.integers(0, 8))
        limits.append(PoolLimits(draw(st.sampled_from([1, 2, 4, 8])), low, low + draw(st.integers(1, 30))))
    ratio = Ratio(draw(st.sampled_from([0.0, 0.25, 1.0])), draw(st.sampled_from([1.0, 4.0, float("inf")])))
    budget = draw(st.none() | st.integers(1, 200))
    try:
        return Settings(
            OBJECTIVES,
            PROFILE.performance,
            limits[0],
            limits[1],
            PROFILE.kv_capacity_tokens,
            256,
            ratio=ratio,
            gpu_budget=budget,
            max_step=draw(st.none() | st.integers(1, 5)),
        )
    except BadSettingsError:
        return Settings(
            OBJECTIVES, PROFILE.performance, limits[0], limits[1], PROFILE.kv_capacity_tokens, 256, ratio=ratio
        )


def finished_bin(second, tokens, stay_s=5.0):
    """One request that came and went in the same second, after `stay_s` on a decode worker."""
    kv_s = stay_s * tokens
    return Bin(
        second,
        arrivals=1,
        steps=1,
        new_tokens=tokens,
        square_tokens=tokens * tokens,
        prompt_tokens=tokens,
        finished=1,
        ended_prompt_tokens=tokens,
        held_s=stay_s,
        held_kv_s=kv_s,
        kv_token_s=kv_s,
        kv_square_s=kv_s * tokens,
    )


def history_of(seed, rate_rps, tokens, copies=1, span_s=120):
    """Poisson arrivals; `copies` of each request for a multiple of the same load."""
    rng, history = random.Random(seed), DemandHistory()
    at = NOW - span_s
    for second in range(int(at), NOW):
        history.add_bin(Bin(second))
    while (at := at + rng.expovariate(rate_rps)) < NOW:
        size = max(1, int(rng.expovariate(1 / tokens)))
        target = ttft_target_s(OBJECTIVES, PROFILE.performance.prefill_s(size))
        for _ in range(copies):
            history.add_arrivals([Arrival(at, size, 0, target)])
            history.add_bin(finished_bin(int(at), size))
    return history


def observation_of(history, prefill, decode, gauges):
    return Observation(NOW, history, gauges, NOW, 1, 1, PoolState(prefill, prefill), PoolState(decode, decode))


levels = st.builds(
    Gauges,
    st.integers(0, 100),
    st.integers(0, 10**6),
    st.integers(0, 10**9),
    st.integers(0, 5000),
    st.integers(0, 10**7),
)


@settings(max_examples=40, deadline=None)
@given(
    fleets(),
    st.integers(0, 99),
    st.floats(0.2, 20),
    st.integers(10, 4000),
    levels,
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_sizes_are_whole_and_within_every_limit(fleet, seed, rate, tokens, gauges, prefill, decode):
    """min, max and the GPU budget hold, wherever the fleet comes from."""
    decision, _ = decide(fleet, observation_of(history_of(seed, rate, tokens), prefill, decode, gauges), Memory())
    for pool, limits in ((decision.prefill, fleet.prefill), (decision.decode, fleet.decode)):
        assert isinstance(pool.workers, int)
        assert limits.awake <= pool.workers <= limits.maximum
        if pool.workers < pool.needed:
            assert pool.bound in {"max", "gpuBudget", "rate", "noFreeGPUs"}
        if pool.workers > pool.needed:
            assert pool.bound != "need"
    if fleet.gpu_budget is not None:
        used = decision.prefill.workers * fleet.prefill.gpus + decision.decode.workers * fleet.decode.gpus
        assert used <= fleet.gpu_budget


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.floats(0.2, 12), st.integers(50, 4000))
def test_twice_the_load_never_needs_fewer_workers(seed, rate, tokens):
    """Every request twice, everything else alike."""
    fleet = Settings(OBJECTIVES, PROFILE.performance, PoolLimits(4, 1, 500), PoolLimits(4, 1, 500), 449_000, 256)
    sizes = []
    for copies in (1, 2):
        held = Gauges(decode_sequences=50 * copies, decode_kv_tokens=50_000 * copies)
        seen = observation_of(history_of(seed, rate, tokens, copies), 1, 1, held)
        sizes.append(decide(fleet, seen, Memory())[0])
    assert sizes[1].prefill.workers >= sizes[0].prefill.workers
    assert sizes[1].decode.workers >= sizes[0].decode.workers


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), fleets())
def test_the_same_inputs_give_the_same_decision(seed, fleet):
    """No clock, no randomness, no hidden state."""
    made = [decide(fleet, observation_of(history_of(seed, 5, 1000), 3, 3, Gauges()), Memory()) for _ in range(2)]
    assert made[0] == made[1]


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 999))
def test_steady_load_never_causes_opposite_decisions_within_a_hold(seed):
    """20 minutes of Poisson load: after growing, a pool does not shrink for a start-up time."""
    rng, fleet = (
        random.Random(seed),
        Settings(OBJECTIVES, PROFILE.performance, PoolLimits(4, 1, 50), PoolLimits(4, 1, 50), 449_000, 256),
    )
    history, memory, size, grew_at = DemandHistory(), Memory(), 1, float("-inf")
    at = 0.0
    for now in range(10, 1200, 10):
        for second in range(now - 10, now):
            history.add_bin(Bin(second))
        while (at := at + rng.expovariate(3.0)) < now:
            history.add_arrivals([Arrival(at, 1200, 0, 2.0)])
            history.add_bin(finished_bin(int(at), 1200))
        base = observation_of(history, size, 2, Gauges(decode_sequences=15, decode_kv_tokens=20_000))
        decision, memory = decide(fleet, replace(base, now_s=float(now), newest_s=float(now)), memory)
        if decision.prefill.workers > size:
            grew_at = now
        if decision.prefill.workers < size:
            assert now - grew_at >= base.prefill.startup_s
        size = decision.prefill.workers
