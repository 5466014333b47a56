"""What a decode engine says with KV from a prefill engine is what one engine says alone."""

from collections.abc import Callable

import pytest
from integration.kv.vllm_engine import (
    BLOCK_TOKENS,
    DTYPE_BYTES,
    PROMPT_LENGTHS,
    Fleet,
    complete_disaggregated,
    prefill,
    text_of,
)

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

BLOCK_BYTES = 4 * 2 * BLOCK_TOKENS * 128 * DTYPE_BYTES  # layers, KV heads, tokens, K and V of 64


def test_twelve_prompts_give_the_tokens_of_a_single_engine_with_all_their_kv_from_remote(
    fleet: Fleet, make_prompt: Callable[[int], list[int]]
) -> None:
    prompts = [make_prompt(length) for length in PROMPT_LENGTHS]
    alone = [text_of(fleet.plain.complete(prompt)) for prompt in prompts]
    before = fleet.decode.stats()

    together = [text_of(complete_disaggregated(fleet.prefill, fleet.decode, prompt)) for prompt in prompts]

    after = fleet.decode.stats()
    assert together == alone
    blocks = sum(-(-length // BLOCK_TOKENS) for length in PROMPT_LENGTHS)
    assert after["bytes_received"] - before["bytes_received"] == blocks * BLOCK_BYTES
    assert after["remote_tokens"] - before["remote_tokens"] == sum(PROMPT_LENGTHS)
    assert after["recomputed_tokens"] == before["recomputed_tokens"]
    assert after["failures"] == before["failures"]
    assert fleet.prefill.stats()["leases"] == 0


def test_destroyed_kv_changes_the_tokens_so_equality_is_proof_of_transfer(
    fleet: Fleet, make_prompt: Callable[[int], list[int]]
) -> None:
    prompts = [make_prompt(length) for length in PROMPT_LENGTHS]
    alone = [text_of(fleet.plain.complete(prompt)) for prompt in prompts]

    corrupted = [text_of(complete_disaggregated(fleet.prefill, fleet.corrupting, prompt)) for prompt in prompts]

    assert sum(left == right for left, right in zip(alone, corrupted, strict=True)) <= 1


def test_a_prompt_the_decode_engine_has_cached_moves_no_bytes_and_releases_the_lease(
    fleet: Fleet, make_prompt: Callable[[int], list[int]]
) -> None:
    prompt = make_prompt(10 * BLOCK_TOKENS)
    first = text_of(complete_disaggregated(fleet.prefill, fleet.decode, prompt))
    before = fleet.decode.stats()["bytes_received"]

    again = text_of(complete_disaggregated(fleet.prefill, fleet.decode, prompt))

    assert again == first
    # vLLM never takes a whole prompt from its own cache: the last block is computed, or pulled, again
    assert fleet.decode.stats()["bytes_received"] - before <= BLOCK_BYTES
    assert fleet.prefill.stats()["leases"] == 0


def test_a_ticket_for_another_prompt_is_not_redeemed(fleet: Fleet, make_prompt: Callable[[int], list[int]]) -> None:
    prompt, other = make_prompt(200), make_prompt(200)
    alone = text_of(fleet.plain.complete(prompt))
    ticket = prefill(fleet.prefill, other)

    answer = text_of(fleet.decode.complete(prompt, kv_transfer_params=ticket))

    assert answer == alone
    assert fleet.decode.stats()["failures"]["prompt_mismatch"] == 1
    assert fleet.prefill.stats()["leases"] == 0
