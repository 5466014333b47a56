"""Fleets and demand to decide on: 70B on four H100, objectives p99, traffic by rate and length."""

from dataclasses import replace

from tandem_core.profiles import find_profile
from tandem_core.targets import Objectives, ttft_target_s
from tandem_operator.autoscale.demand import Arrival, Bin, DemandHistory, Gauges
from tandem_operator.autoscale.observation import Observation, PoolState
from tandem_operator.autoscale.settings import PoolLimits, Settings

PROFILE = find_profile("70b-h100-tp4")
OBJECTIVES = Objectives(ttft_s=2.0, tpot_s=0.05, ttft_share=0.99, tpot_share=0.99, isolated_factor=3.0)
SETTINGS = Settings(
    objectives=OBJECTIVES,
    performance=PROFILE.performance,
    prefill=PoolLimits(gpus=4, minimum=1, maximum=100),
    decode=PoolLimits(gpus=4, minimum=1, maximum=100),
    kv_capacity_tokens=PROFILE.kv_capacity_tokens,
    max_sequences=256,
)
NOW = 10_000.0


def arrival(at_s: float, tokens: int) -> Arrival:
    """A request without cached prefix, with the target that the objectives give it."""
    return Arrival(at_s, tokens, 0, ttft_target_s(OBJECTIVES, PROFILE.performance.prefill_s(tokens)))


def steady(rate_rps: float, tokens: int = 1000, *, until_s: float = NOW, span_s: int = 600, decode_s: float = 8.0):
    """History of evenly spaced arrivals that each stay `decode_s` on a decode worker."""
    history = DemandHistory()
    if rate_rps <= 0:
        for second in range(int(until_s) - span_s, int(until_s)):
            history.add_bin(Bin(second))
        return history
    start_s = until_s - span_s
    times = [start_s + number / rate_rps for number in range(int(span_s * rate_rps))]
    history.add_arrivals(arrival(at, tokens) for at in times)
    bins = {second: Bin(second) for second in range(int(start_s), int(until_s))}
    for at in times:
        one = bins[int(at)]
        one.arrivals += 1
        one.steps += 1
        one.new_tokens += tokens
        one.square_tokens += tokens * tokens
        one.prompt_tokens += tokens
        one.finished += 1
        one.held_s += decode_s
        one.held_kv_s += decode_s * tokens
        one.kv_token_s += decode_s * tokens
        one.kv_square_s += decode_s * tokens * tokens
        one.ended_prompt_tokens += tokens
    for one in bins.values():
        history.add_bin(one)
    return history


def seen(history: DemandHistory, *, prefill: int = 1, decode: int = 1, **changes) -> Observation:
    """A healthy observation at NOW of a settled fleet of that size."""
    base = Observation(
        now_s=NOW,
        demand=history,
        gauges=Gauges(),
        newest_s=NOW,
        sources_expected=2,
        sources_fresh=2,
        prefill=PoolState(prefill, prefill),
        decode=PoolState(decode, decode),
    )
    return replace(base, **changes)
