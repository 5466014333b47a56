"""Tensor parallelism on real engines: KV of two ranks for two, for one, and of one for two; and what does not fit."""

from collections.abc import Callable, Iterator

import pytest
from integration.kv.conftest import Starter
from integration.kv.vllm_engine import BLOCK_TOKENS, Engine, Fleet, complete_disaggregated, text_of

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(1800)]

LENGTHS = (5, 33, 100, 500, 1200)


@pytest.fixture(scope="module")
def halves(start: Starter) -> Iterator[dict[str, Engine]]:
    """A prefill and a decode engine of two ranks each, with half of the heads in each rank."""
    engines = {role: start(role, tp_size=2) for role in ("prefill", "decode")}
    for engine in engines.values():
        engine.wait_ready()
    yield engines
    for engine in engines.values():
        engine.stop()


@pytest.mark.parametrize(("prefill_tp", "decode_tp"), [(2, 2), (1, 2), (2, 1)])
def test_tokens_are_those_of_one_engine_with_all_kv_from_remote(
    fleet: Fleet,
    halves: dict[str, Engine],
    make_prompt: Callable[[int], list[int]],
    prefill_tp: int,
    decode_tp: int,
) -> None:
    """In float32, so that the order in which ranks add up does not show in greedy tokens."""
    prefill = fleet.prefill if prefill_tp == 1 else halves["prefill"]
    decode = fleet.decode if decode_tp == 1 else halves["decode"]
    prompts = [make_prompt(length) for length in LENGTHS]
    alone = [text_of(fleet.plain.complete(prompt)) for prompt in prompts]
    before = decode.stats()

    together = [text_of(complete_disaggregated(prefill, decode, prompt)) for prompt in prompts]

    after = decode.stats()
    assert together == alone
    assert after["remote_tokens"] - before["remote_tokens"] == sum(LENGTHS)
    assert after["recomputed_tokens"] == before["recomputed_tokens"]
    assert after["failures"] == before["failures"]
    assert prefill.stats()["leases"] == 0


@pytest.mark.parametrize("tokens", [BLOCK_TOKENS // 2, 4 * BLOCK_TOKENS], ids=["one block in either", "two and four"])
def test_another_block_size_is_refused_and_the_answer_is_right_all_the_same(
    fleet: Fleet, start: Starter, make_prompt: Callable[[int], list[int]], tokens: int
) -> None:
    decode = start("decode", block_tokens=2 * BLOCK_TOKENS)
    try:
        decode.wait_ready()
        prompt = make_prompt(tokens)
        alone = text_of(fleet.plain.complete(prompt))

        answer = text_of(complete_disaggregated(fleet.prefill, decode, prompt))

        assert answer == alone
        assert decode.stats()["remote_tokens"] == 0
        assert any("mismatch_block_size" in reason for reason in decode.stats()["failures"])
    finally:
        decode.stop()
