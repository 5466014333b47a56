"""Demand that moves between regions: conserved, within everybody's room, cheapest first."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.region_demand import RegionDemand, RegionSupply, helped_demand, share_uncoverable, total_uncoverable

amounts = st.just(0.0) | st.floats(1e-3, 1e6)
loads = st.builds(RegionDemand, amounts, amounts, amounts, amounts, amounts)
supplies = st.builds(
    RegionSupply,
    uncoverable=st.just(RegionDemand()) | loads,
    room=st.just(RegionDemand()) | loads,
    price_weight=st.sampled_from([0.5, 1.0, 2.0]),
)
SIDES = ("prefill_tokens_per_s", "decode_sequences", "decode_kv_tokens")
NEED = RegionDemand(10.0, 1000.0, 1e6, 100.0, 5000.0)
AMPLE = RegionDemand(0.0, 1e9, 0.0, 1e9, 1e9)


@given(st.dictionaries(st.sampled_from("abcdef"), supplies, min_size=1))
def test_what_helpers_take_and_what_stays_is_what_was_uncoverable(regions):
    shares = share_uncoverable(regions)
    stays = 1.0 - sum(shares.values())
    assert stays >= -1e-9
    taken = sum((helped_demand(name, regions) for name in regions), RegionDemand())
    total = total_uncoverable(regions.values())
    for side in RegionDemand.__dataclass_fields__:
        kept = sum(getattr(one.uncoverable, side) * stays for one in regions.values())
        assert getattr(taken, side) + kept == pytest.approx(getattr(total, side), abs=1e-6)


@given(st.dictionaries(st.sampled_from("abcdef"), supplies, min_size=1))
def test_no_room_is_overfilled_and_who_needs_help_gives_none(regions):
    for name, one in regions.items():
        helped = helped_demand(name, regions)
        if one.uncoverable:
            assert not helped
        for side in SIDES:
            assert getattr(helped, side) <= getattr(one.room, side) * (1 + 1e-9)


@given(st.dictionaries(st.sampled_from("abcdef"), supplies, min_size=1), st.sampled_from("abcdef"))
def test_room_is_left_unused_only_by_those_without_need(regions, name):
    """With ample room anywhere, nothing stays at its origin."""
    regions = {**regions, name: RegionSupply(room=AMPLE)}
    total = total_uncoverable(regions.values())
    if any(getattr(total, side) for side in SIDES):
        assert sum(share_uncoverable(regions).values()) == pytest.approx(1.0)


def test_the_cheapest_room_is_filled_first():
    half = replace(AMPLE, decode_sequences=50.0)
    regions = {
        "lost": RegionSupply(uncoverable=NEED),
        "cheap": RegionSupply(room=half, price_weight=1.0),
        "dear": RegionSupply(room=AMPLE, price_weight=2.0),
    }
    assert share_uncoverable(regions) == {"cheap": 0.5, "dear": 0.5}
    assert helped_demand("cheap", regions) == NEED.scaled(0.5)


def test_room_for_prefill_alone_is_no_room():
    regions = {"lost": RegionSupply(NEED), "half": RegionSupply(room=RegionDemand(prefill_tokens_per_s=1e9))}
    assert share_uncoverable(regions) == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_a_load_that_cannot_be_is_refused_by_name(bad):
    with pytest.raises(ValueError, match="decode_sequences"):
        RegionDemand(decode_sequences=bad)
