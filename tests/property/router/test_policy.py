"""The policy: pure, so its promises are checked over arbitrary fleets."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from tandem_router.policy.pairing import (
    CAP_FACTOR,
    CAP_SLACK_TOKENS,
    PairingRules,
    decide_decode,
    decide_prefill,
    is_local_better,
    prefill_costs,
)
from tandem_router.policy.prefix_index import BLOCK_BYTES, PrefixIndex, hash_blocks, seed_of
from tandem_router.policy.rates import RateEstimate
from tandem_router.policy.revisions import Readiness, choose_revision, draw_weighted


@dataclass(frozen=True)
class View:
    bit: int
    running: int
    backlog_tokens: int
    slots: int
    tokens_per_s: float | None = None


draws = st.floats(0, 1, exclude_max=True)
sizes = st.integers(1, 100_000)
views = st.builds(
    View,
    bit=st.just(0),
    running=st.integers(0, 300),
    backlog_tokens=st.integers(0, 500_000),
    slots=st.integers(0, 300),
    tokens_per_s=st.none() | st.floats(1, 1e6),
)
fleets = st.lists(views, max_size=12).map(
    lambda rows: [View(1 << n, v.running, v.backlog_tokens, v.slots, v.tokens_per_s) for n, v in enumerate(rows)]
)
hit_maps = st.dictionaries(st.integers(0, 11).map(lambda n: 1 << n), st.integers(1, 400))


@given(sizes, fleets, hit_maps, draws)
def test_a_worker_without_a_free_slot_is_never_chosen(tokens, workers, hits, draw):
    for decide in (decide_decode, decide_prefill):
        chosen = decide(tokens, workers, hits, draw)
        assert (chosen is None) == all(one.running >= one.slots for one in workers)
        assert chosen is None or (chosen in workers and chosen.running < chosen.slots)


@given(sizes, fleets, hit_maps, draws)
def test_affinity_never_overloads_a_worker_far_beyond_the_mean(tokens, workers, hits, draw):
    free = [one for one in workers if one.running < one.slots]
    chosen = decide_prefill(tokens, workers, hits, draw)
    if chosen is not None and len(free) > 1:
        mean = sum(one.backlog_tokens for one in free) / len(free)
        assert chosen.backlog_tokens <= CAP_FACTOR * mean + max(CAP_SLACK_TOKENS, 2 * tokens)


@given(sizes, draws, st.integers(2, 10))
def test_among_equal_workers_the_one_that_holds_the_prefix_is_chosen(tokens, draw, count):
    workers = [View(1 << n, 1, 100, 8) for n in range(count)]
    blocks = tokens // 64
    if blocks >= 4:
        assert decide_prefill(tokens, workers, {4: blocks} if count > 2 else {2: blocks}, draw).bit in (2, 4)


@given(sizes, fleets, hit_maps)
def test_more_cached_blocks_never_cost_more(tokens, workers, hits):
    more = {bit: count + 1 for bit, count in hits.items()}
    for less_cost, more_cost in zip(
        prefill_costs(tokens, workers, more), prefill_costs(tokens, workers, hits), strict=True
    ):
        assert less_cost <= more_cost


@given(draws)
def test_ties_are_broken_towards_the_less_busy(draw):
    workers = [View(1, 3, 0, 8, 100.0), View(2, 0, 0, 8, 100.0)]
    assert decide_prefill(10, workers, {}, draw).bit == 2


def test_local_prefill_needs_a_held_prefix_and_little_missing():
    worker = View(1, 0, 0, 8)
    rules = PairingRules(min_remote_tokens=64)
    assert is_local_better(128, worker, {1: 2}, rules)
    assert is_local_better(150, worker, {1: 2}, rules)
    assert not is_local_better(500, worker, {1: 2}, rules)
    assert not is_local_better(10, worker, {}, rules)


@given(st.binary(max_size=3000), st.binary(max_size=3000))
def test_two_prompts_share_exactly_their_common_prefix_of_blocks(first, second):
    a, b = hash_blocks(first), hash_blocks(second)
    same = 0
    while same < min(len(a), len(b)) and first[: (same + 1) * BLOCK_BYTES] == second[: (same + 1) * BLOCK_BYTES]:
        same += 1
    assert a[:same] == b[:same]
    assert not set(a[same:]) & set(b[same:])


def test_another_owner_shares_nothing():
    text = b"x" * 1024
    assert not set(hash_blocks(text, seed_of("a"))) & set(hash_blocks(text, seed_of("b")))


operations = st.lists(
    st.tuples(st.sampled_from(["insert", "forget"]), st.lists(st.integers(0, 20), max_size=6), st.integers(0, 4)),
    max_size=40,
)


@given(operations, st.lists(st.integers(0, 20), max_size=6), st.integers(3, 10))
def test_the_index_agrees_with_a_naive_one_and_stays_bounded(steps, asked, capacity):
    index = PrefixIndex(10_000)
    small = PrefixIndex(capacity)
    naive: dict[int, set[int]] = {}
    for kind, blocks, number in steps:
        bit = 1 << number
        if kind == "insert":
            index.insert(blocks, bit)
            small.insert(blocks, bit)
            for block in blocks:
                naive.setdefault(block, set()).add(bit)
        else:
            index.forget(bit)
            for holders in naive.values():
                holders.discard(bit)
        assert len(small) <= capacity
    bits = [1 << number for number in range(5)]
    expected = {}
    for bit in bits:
        depth = 0
        while depth < len(asked) and bit in naive.get(asked[depth], ()):
            depth += 1
        if depth:
            expected[bit] = depth
    assert index.hits(asked, bits) == expected


names = st.sampled_from(["a", "b", "c"])
ready_maps = st.dictionaries(
    names, st.builds(Readiness, st.integers(0, 2), st.integers(0, 2), st.sampled_from(["1", "2", "3"]))
)


@given(ready_maps, st.lists(st.tuples(names, st.integers(0, 100)), max_size=3), draws, st.booleans())
def test_a_revision_that_can_serve_is_chosen_whenever_there_is_one(ready, weights, draw, has_prefill):
    chosen = choose_revision(ready, weights, draw, has_prefill=has_prefill)
    assert (chosen is None) == all(not one.decode for one in ready.values())
    if chosen is None:
        return
    assert ready[chosen].decode
    pairs = {name for name, one in ready.items() if one.is_pair(has_prefill=has_prefill)}
    assert not pairs or chosen in pairs
    weighted = {name for name, percent in weights if percent > 0} & pairs
    assert not weighted or chosen in weighted


def test_traffic_follows_the_weights():
    picks = [draw_weighted([("a", 90), ("b", 10)], n / 1000) for n in range(1000)]
    assert picks.count("b") == 100


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(-1, 100)), max_size=30))
def test_a_learned_rate_stays_between_what_was_observed(observed):
    estimate = RateEstimate()
    for tokens, seconds in observed:
        estimate.observe(tokens, seconds)
    usable = [tokens / seconds for tokens, seconds in observed if tokens >= 256 and seconds >= 1e-6]
    if usable:
        assert min(usable) * 0.999 <= estimate.tokens_per_s <= max(usable) * 1.001
    else:
        assert estimate.tokens_per_s is None
