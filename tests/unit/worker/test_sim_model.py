"""The sim engine's pure parts: time, batching, text, cache, settings, faults."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_api.conditions import Reason
from tandem_worker.engines.sim.batch import Batch, Sequence
from tandem_worker.engines.sim.faults import Fault, FaultKind, FaultSwitch
from tandem_worker.engines.sim.prefix_cache import PrefixCache
from tandem_worker.engines.sim.settings import SimSettings, read_sim_settings
from tandem_worker.engines.sim.text import count_tokens, generate_words, hash_blocks
from tandem_worker.engines.sim.timing import decode_ms, prefill_ms, transfer_ms
from tandem_worker.errors import WorkerError

SIM = SimSettings(
    prefill_base_ms=10,
    prefill_token_ms=1,
    prefill_square_ms=0.1,
    decode_base_ms=5,
    decode_sequence_ms=2,
    decode_context_ms=0.01,
    kv_tokens=1000,
    kv_token_bytes=100,
    kv_bytes_per_ms=50,
)

UNHURRIED = settings(deadline=None, max_examples=50)  # test machines are busy


def test_times_follow_the_performance_model() -> None:
    assert prefill_ms(SIM, 20) == 10 + 20 + 0.1 * 400
    assert decode_ms(SIM, 3, 600) == 5 + 6 + 6
    assert prefill_ms(SIM, 0) == decode_ms(SIM, 0, 0) == 0
    assert transfer_ms(SIM, 8) == 16


def test_a_prompt_is_computed_in_chunks_beside_decoding_sequences() -> None:
    batch = Batch(SIM, slots=2, step_tokens=50)
    decoding = Sequence(prompt_tokens=10, to_compute=0, max_tokens=5)
    prefilling = Sequence(prompt_tokens=80, to_compute=80, max_tokens=5)
    batch.add(decoding)
    batch.add(prefilling)
    first = batch.plan_step()
    assert first is not None
    assert first.chunks == {prefilling: 50}
    assert first.yields == (decoding,)
    assert first.duration_ms == prefill_ms(SIM, 50) + decode_ms(SIM, 1, 10)
    assert batch.finish_step(first) == [decoding]
    second = batch.plan_step()
    assert second is not None
    assert second.chunks == {prefilling: 30}
    assert batch.finish_step(second) == [decoding, prefilling]


def test_a_sequence_that_left_during_a_step_gets_no_token() -> None:
    batch = Batch(SIM, slots=2, step_tokens=50)
    sequence = Sequence(10, 0, 5)
    batch.add(sequence)
    step = batch.plan_step()
    assert step is not None
    batch.remove(sequence)
    assert batch.finish_step(step) == []
    assert batch.plan_step() is None


@UNHURRIED
@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 100)), min_size=1, max_size=20),
    st.integers(1, 6),
    st.integers(1, 600),
)
def test_every_sequence_gets_exactly_its_tokens_within_slots_and_memory(
    requests: list[tuple[int, int]], slots: int, step_tokens: int
) -> None:
    batch = Batch(SIM, slots, step_tokens)
    sequences = [Sequence(prompt, prompt, answer) for prompt, answer in requests]
    for sequence in sequences:
        batch.add(sequence)
    counts: dict[Sequence, int] = dict.fromkeys(sequences, 0)
    while step := batch.plan_step():
        assert len(batch.running) <= slots
        assert batch.reserved_tokens <= SIM.kv_tokens
        assert sum(step.chunks.values()) <= step_tokens
        assert step.duration_ms > 0
        for sequence in batch.finish_step(step):
            counts[sequence] += 1
    assert [counts[sequence] for sequence in sequences] == [answer for _, answer in requests]


def test_leases_keep_new_sequences_waiting() -> None:
    batch = Batch(SIM, slots=2, step_tokens=50)
    batch.leased_tokens = 990
    batch.add(Sequence(10, 10, 1))
    assert batch.plan_step() is None
    assert batch.kv_usage == 0.99
    batch.leased_tokens = 0
    assert batch.plan_step() is not None


@UNHURRIED
@given(st.text(max_size=60), st.integers(0, 20))
def test_an_answer_that_is_continued_elsewhere_goes_on_as_it_would_have(prompt: str, split: int) -> None:
    whole = list(itertools.islice(generate_words(prompt), 30))
    sent = "".join(whole[:split])
    assert list(itertools.islice(generate_words(prompt + sent), 30 - split)) == whole[split:]


def test_other_prompts_get_other_answers() -> None:
    answers = {"".join(itertools.islice(generate_words(f"prompt {n}"), 20)) for n in range(100)}
    assert len(answers) == 100


@UNHURRIED
@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300))
def test_only_equal_beginnings_share_blocks(shared: str, left: str, right: str) -> None:
    ours, theirs = hash_blocks(shared + left), hash_blocks(shared + right)
    common = sum(1 for a, b in zip(ours, theirs, strict=False) if a == b)
    a, b = (shared + left).encode(), (shared + right).encode()
    equal_bytes = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert common == equal_bytes // 64


def test_a_salt_separates_equal_prompts() -> None:
    assert not set(hash_blocks("x" * 200, "a")) & set(hash_blocks("x" * 200, "b"))
    assert count_tokens("") == 1
    assert count_tokens("12345") == 2


def test_the_cache_forgets_what_was_used_longest_ago_and_ends_of_chains_first() -> None:
    cache = PrefixCache(4)
    cache.insert([b"a", b"b", b"c"])
    cache.insert([b"x", b"y"])
    assert cache.count_hits([b"a", b"b", b"c"]) == 2
    assert cache.count_hits([b"x", b"y"]) == 2
    assert cache.count_hits([b"z", b"a"]) == 0


def test_settings_come_from_engine_arguments() -> None:
    settings = read_sim_settings(["--sim-speed=10", "--sim-kv-tokens=4096"])
    assert (settings.speed, settings.kv_tokens) == (10, 4096)


@pytest.mark.parametrize(
    ("argument", "words"),
    [("--enforce-eager", "--sim-NAME=VALUE"), ("--sim-speed=0", "--sim-speed"), ("--sim-colour=red", "--sim-colour")],
)
def test_arguments_of_another_engine_are_refused_by_name(argument: str, words: str) -> None:
    with pytest.raises(WorkerError, match=words) as caught:
        read_sim_settings([argument])
    assert caught.value.reason is Reason.INVALID_SPEC


def test_a_fault_with_a_number_strikes_that_many_requests() -> None:
    switch = FaultSwitch()
    switch.fault = Fault(kind=FaultKind.CUT, requests=2)
    assert switch.strike(FaultKind.HANG) is None
    assert [switch.strike(FaultKind.CUT) is not None for _ in range(3)] == [True, True, False]
