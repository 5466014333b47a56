"""The policy: pure, so its promises are checked over arbitrary fleets."""

import dataclasses
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from tandem_router import jsontext
from tandem_router.policy.costs import Want, decode_costs, prefill_costs
from tandem_router.policy.ejection import MAX_S, Ejection
from tandem_router.policy.hit_trust import FLOOR, HitTrust
from tandem_router.policy.learned import MIN_PREFILL_TOKENS, PREFILL_SHARES, LearnedSeconds, predict_s
from tandem_router.policy.pairing import (
    CAP_FACTOR,
    CAP_SLACK_TOKENS,
    Busy,
    Choices,
    PairingRules,
    decide_pair,
    decide_prefill,
    pick,
)
from tandem_router.policy.prefix_index import BLOCK_BYTES, PrefixIndex, hash_blocks, seed_of
from tandem_router.policy.replay import Taken, parse_decision, record_decision, score_decodes, score_prefills
from tandem_router.policy.revisions import Readiness, choose_revision, draw_weighted
from tandem_router.policy.token_ratio import BOUNDS, TokenRatio


@dataclass(frozen=True)
class Fit:
    terms: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Fits:
    prefill: Fit = Fit()
    decode: Fit = Fit()
    near: Fit = Fit()
    far: Fit = Fit()


@dataclass(frozen=True)
class View:
    bit: int
    running: int = 0
    backlog_tokens: int = 0
    slots: int = 8
    topology: str = ""
    warmth: float = 1.0
    trust: float = 1.0
    adapters: frozenset[str] = frozenset()
    fits: Fits = Fits()

    @property
    def has_slot(self):
        return self.running < self.slots

    def has_adapter(self, name):
        return name in self.adapters


draws = st.floats(0, 1, exclude_max=True)
sizes = st.integers(1, 100_000)
seconds = st.floats(1e-9, 1.0)
fits = st.builds(Fit, st.none() | st.tuples(seconds, seconds, seconds))
views = st.builds(
    View,
    bit=st.just(0),
    running=st.integers(0, 300),
    backlog_tokens=st.integers(0, 500_000),
    slots=st.integers(0, 300),
    topology=st.sampled_from(["", "a", "b"]),
    warmth=st.floats(0.25, 1.0),
    trust=st.floats(0.05, 1.0),
    adapters=st.frozensets(st.just("lora")),
    fits=st.builds(Fits, fits, fits, fits, fits),
)
fleets = st.lists(views, max_size=12).map(
    lambda rows: [replace(row, bit=1 << number) for number, row in enumerate(rows)]
)
halves = fleets.map(lambda rows: (rows[::2], rows[1::2]))
hit_maps = st.dictionaries(st.integers(0, 11).map(lambda n: 1 << n), st.integers(1, 400))
wants = st.builds(
    lambda tokens, tpot_s, adapter: Want(tokens, tpot_s=tpot_s, adapter=adapter),
    sizes,
    st.none() | st.floats(0.001, 1.0),
    st.sampled_from(["", "lora"]),
)
whole_reasons = st.none() | st.sampled_from(["n", "mixed"])
RULES = PairingRules()


@given(wants, halves, whole_reasons, st.booleans(), hit_maps, draws)
def test_a_pair_is_found_exactly_when_workers_can_start(want, pools, whole_reason, must_split, hits, draw):
    prefills, decodes = pools
    decided = decide_pair(want, Choices(prefills, decodes, whole_reason, must_split), hits, RULES, draw)
    can_decode = any(one.has_slot for one in decodes)
    can_prefill = any(one.has_slot for one in prefills)
    if not can_decode:
        assert decided == Busy("decode")
    elif whole_reason is None and not can_prefill and (prefills or must_split):
        assert decided == Busy("prefill")
    else:
        assert decided.decode in decodes
        assert decided.decode.has_slot
        assert decided.prefill is None or (decided.prefill in prefills and decided.prefill.has_slot)
        assert (decided.prefill is None) == (decided.reason != "remote")
        assert whole_reason is None or decided.reason == whole_reason


@given(wants, fleets, hit_maps, draws)
def test_affinity_never_overloads_a_worker_far_beyond_the_mean(want, workers, hits, draw):
    free = [one for one in workers if one.has_slot]
    chosen = decide_prefill(want, workers, hits, draw)
    assert (chosen is None) == (not free)
    if chosen is not None and len(free) > 1:
        mean = sum(one.backlog_tokens for one in free) / len(free)
        assert chosen.backlog_tokens <= CAP_FACTOR * mean + max(CAP_SLACK_TOKENS, 2 * want.tokens)


LEARNED = Fits(Fit((0.002, 1e-4, 1e-9)), Fit((0.02, 1e-4, 1e-8)), Fit((0.001, 1e-6, 0.0)), Fit((0.01, 1e-5, 0.0)))


@given(sizes, draws, st.integers(2, 10), st.booleans())
def test_among_equal_workers_the_one_that_holds_the_prefix_is_chosen(tokens, draw, count, is_learned):
    workers = [View(1 << n, 1, 100, fits=LEARNED if is_learned else Fits()) for n in range(count)]
    blocks = tokens // 64
    if blocks >= 8:
        assert decide_prefill(Want(tokens), workers, {2: blocks}, draw).bit == 2


@given(wants, fleets, hit_maps)
def test_more_cached_blocks_never_cost_more(want, workers, hits):
    more = {bit: count + 1 for bit, count in hits.items()}
    for less_cost, more_cost in zip(
        prefill_costs(want, workers, more)[0], prefill_costs(want, workers, hits)[0], strict=True
    ):
        assert less_cost <= more_cost


@given(wants, fleets, hit_maps)
def test_costs_are_finite_and_rise_with_load(want, workers, hits):
    busier = [replace(one, running=one.running + 5, backlog_tokens=one.backlog_tokens + 5000) for one in workers]
    for costs in (prefill_costs, decode_costs):
        for cost, busier_cost in zip(costs(want, workers, hits)[0], costs(want, busier, hits)[0], strict=True):
            assert 0 <= cost < float("inf")
            assert cost <= busier_cost


@given(draws)
def test_ties_are_broken_towards_the_less_busy(draw):
    workers = [View(1, 3), View(2, 0)]
    assert pick(workers, [1.0, 1.0], draw).bit == 2


def test_prefill_stays_where_the_prompt_is_held_but_for_a_little():
    decodes, prefills = [View(2)], [View(1)]
    for tokens, hits, reason in (
        (128, {2: 2}, "cached"),
        (150, {2: 2}, "cached"),
        (500, {2: 2}, "remote"),
        (10, {}, "remote"),
    ):
        assert decide_pair(Want(tokens), Choices(prefills, decodes), hits, RULES, 0.5).reason == reason


def test_the_index_is_believed_as_far_as_it_was_right():
    honest, liar = View(1, trust=1.0), View(2, trust=0.1)
    costs, _ = prefill_costs(Want(6400), [honest, liar], {1: 90, 2: 90})
    assert costs[0] < costs[1]


def test_kv_moves_within_a_topology_if_that_is_not_dearer():
    prefills = [View(1, topology="a", fits=LEARNED), View(2, topology="b", fits=LEARNED)]
    decodes = [View(4, topology="b", fits=LEARNED)]
    pair = decide_pair(Want(5000), Choices(prefills, decodes), {}, RULES, 0.0)
    assert pair.prefill.bit == 2
    busy = [prefills[0], replace(prefills[1], backlog_tokens=4000)]
    assert decide_pair(Want(5000), Choices(busy, decodes), {}, RULES, 0.0).prefill.bit == 1


def test_an_adapter_goes_where_it_is():
    workers = [View(1, fits=LEARNED), View(2, fits=LEARNED, adapters=frozenset({"lora"}))]
    assert decide_prefill(Want(500, adapter="lora"), workers, {}, 0.0).bit == 2
    assert {decide_prefill(Want(500), workers, {}, draw).bit for draw in (0.0, 0.6)} == {1, 2}


def test_a_short_prompt_is_prefilled_where_it_is_decoded_once_that_is_known_to_be_cheaper():
    slow_to_move = replace(LEARNED, near=Fit((0.5, 0.0, 0.0)))
    prefills = [View(1, fits=LEARNED)]
    idle = View(2, fits=slow_to_move)
    assert decide_pair(Want(500), Choices(prefills, [idle]), {}, RULES, 0.0).reason == "cheaper"
    for transfer_s, reason in ((0.04, "remote"), (0.5, "cheaper")):  # one never seen is taken for twice as slow
        unknown = replace(idle, fits=replace(LEARNED, near=Fit((transfer_s, 0.0, 0.0)), prefill=Fit()))
        assert decide_pair(Want(500), Choices(prefills, [unknown]), {}, RULES, 0.0).reason == reason
    long = decide_pair(Want(5000), Choices(prefills, [idle]), {}, RULES, 0.0)
    assert long.reason == "remote"


def test_a_busy_decode_worker_is_not_stalled_by_a_prompt():
    slow_to_move = replace(LEARNED, near=Fit((0.15, 0.0, 0.0)))
    prefills, crowd = [View(1, fits=LEARNED)], View(2, running=100, slots=200, fits=slow_to_move)
    assert decide_pair(Want(1500, tpot_s=0.03), Choices(prefills, [crowd]), {}, RULES, 0.0).reason == "remote"
    alone = replace(crowd, running=0)
    assert decide_pair(Want(1500, tpot_s=0.03), Choices(prefills, [alone]), {}, RULES, 0.0).reason == "cheaper"


def test_the_decode_worker_that_keeps_the_objective_is_chosen_before_the_one_that_breaks_it():
    full = View(1, running=200, slots=300, fits=LEARNED)
    roomy = View(2, running=100, slots=300, fits=LEARNED)
    pair = decide_pair(Want(500, tpot_s=0.035), Choices([], [full, roomy], "mixed"), {}, RULES, 0.5)
    assert pair.decode is roomy


def test_a_cold_worker_is_not_run_over():
    warm, cold = View(1, backlog_tokens=2000, fits=LEARNED), View(2, warmth=0.25, fits=LEARNED)
    assert decide_prefill(Want(1000), [warm, cold], {}, 0.0).bit == 1
    assert decide_prefill(Want(1000), [warm, replace(cold, warmth=1.0)], {}, 0.0).bit == 2


def test_under_pressure_a_prompt_waits_for_the_busy_worker_that_holds_it_while_it_can():
    holder = View(1, running=8, slots=8, backlog_tokens=4000, fits=LEARNED)
    free, decodes, hits = View(2, fits=LEARNED), [View(4, fits=replace(LEARNED, prefill=Fit()))], {1: 90}
    choices = Choices([holder, free], decodes)
    waiting = Want(6400, pressure=4.0, can_wait=True)
    assert decide_pair(waiting, choices, hits, RULES, 0.0) == Busy("affinity")
    for want in (waiting._replace(can_wait=False), waiting._replace(pressure=0.0, tokens=200)):
        assert decide_pair(want, choices, hits, RULES, 0.0).prefill is free
    assert decide_pair(waiting, choices, {}, RULES, 0.0).prefill is free
    assert decide_pair(waiting, Choices([holder], decodes), hits, RULES, 0.0) == Busy("prefill")


@given(wants, halves, whole_reasons, st.booleans(), hit_maps, draws)
def test_a_recorded_decision_replays_as_it_was_taken(want, pools, whole_reason, must_split, hits, draw):
    prefills, decodes = ([NamedView.of(one) for one in pool] for pool in pools)
    choices = Choices(prefills, decodes, whole_reason, must_split)
    decided = decide_pair(want, choices, hits, RULES, draw)
    if isinstance(decided, Busy):
        return
    recorded = record_decision(want, Taken(choices, RULES, draw, decided), hits)
    again = parse_decision(jsontext.loads(jsontext.dumps(recorded.to_fields()))).replay()
    assert again.reason == decided.reason
    assert again.decode.name == decided.decode.name
    assert (again.prefill and again.prefill.name) == (decided.prefill and decided.prefill.name)
    assert {row.name for row in score_decodes(recorded)[0]} == {one.name for one in decodes}
    assert sum(row.cost is not None for row in score_prefills(recorded)[0]) <= len(prefills)


@dataclass(frozen=True)
class NamedView(View):
    name: str = ""

    @classmethod
    def of(cls, view):
        return cls(**{field.name: getattr(view, field.name) for field in dataclasses.fields(view)}, name=f"w{view.bit}")


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


measured = st.tuples(st.floats(0, 1e5), st.floats(0, 1e10), st.floats(allow_nan=True, allow_infinity=True))


@given(st.lists(measured, max_size=80))
def test_whatever_is_measured_a_fit_stays_finite_and_never_negative(observations):
    fit = LearnedSeconds(PREFILL_SHARES)
    for x, y, took_s in observations:
        fit.observe(x, y, took_s)
    if fit.terms is not None:
        assert all(0 <= term < float("inf") for term in fit.terms)


@given(st.floats(1e-6, 1e-3), st.randoms(use_true_random=False))
def test_a_rate_is_learned_from_few_prompts(per_token_s, dice):
    fit = LearnedSeconds(PREFILL_SHARES, MIN_PREFILL_TOKENS)
    for _ in range(30):
        tokens = dice.randint(300, 3000)
        fit.observe(tokens, tokens * tokens, per_token_s * tokens)
    assert 0.7 < predict_s(fit.terms, 1500, 1500 * 1500) / (per_token_s * 1500) < 1.4


def test_short_prompts_make_no_anchor():
    fit = LearnedSeconds(PREFILL_SHARES, MIN_PREFILL_TOKENS)
    for _ in range(10):
        fit.observe(20, 400, 0.01)
    assert fit.terms is None


def test_a_worker_that_became_ten_times_slower_is_learned_anew():
    fit = LearnedSeconds(PREFILL_SHARES, MIN_PREFILL_TOKENS)
    for per_token_s in (1e-5, 1e-4):
        for _ in range(300):
            fit.observe(1000, 1e6, per_token_s * 1000)
    assert 0.07 < predict_s(fit.terms, 1000, 1e6) < 0.13


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-1, 2)), max_size=50))
def test_trust_in_the_index_stays_within_its_bounds(observed):
    trust = HitTrust()
    for foretold, cached in observed:
        trust.observe(foretold, cached)
    assert FLOOR <= trust.share <= 1.0


def test_trust_falls_when_the_cache_is_smaller_than_the_index_thinks_and_comes_back():
    trust = HitTrust()
    for _ in range(40):
        trust.observe(0.9, 0.0)
    assert trust.share < 0.1
    for _ in range(40):
        trust.observe(0.9, 0.9)
    assert trust.share > 0.9


@given(st.lists(st.tuples(st.integers(0, 100_000), st.integers(-5, 100_000)), max_size=50))
def test_tokens_per_byte_stay_plausible(observed):
    ratio = TokenRatio()
    for size_bytes, tokens in observed:
        ratio.observe(size_bytes, tokens)
    assert BOUNDS[0] <= ratio.tokens_per_byte <= BOUNDS[1]
    assert ratio.tokens(0) == 1


steps = st.lists(st.tuples(st.sampled_from(["fail", "ok", "given", "unknown"]), st.floats(0, 20)), max_size=30)


@given(steps)
def test_an_ejected_worker_is_always_tried_again(events):
    ejection, now_s = Ejection(), 0.0
    for kind, later_s in events:
        now_s += later_s
        if kind == "fail":
            ejection.note_failure(now_s)
            assert ejection.is_open(now_s)
        elif kind == "ok":
            ejection.note_success()
            assert not ejection.is_open(now_s)
        elif kind == "given":
            ejection.note_given()
        else:
            ejection.note_unknown()
    ejection.note_unknown()
    assert not ejection.is_open(now_s + MAX_S)


def test_a_worker_that_failed_is_tried_with_one_request_at_a_time():
    ejection = Ejection()
    ejection.note_failure(0.0)
    assert not ejection.is_open(1.0)
    ejection.note_given()
    assert ejection.is_open(1.0)
    ejection.note_success()
    ejection.note_given()
    assert not ejection.is_open(1.0)
