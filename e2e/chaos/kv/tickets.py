"""Tickets that must not be redeemed, and a network that swallows bytes."""

import time
from typing import Any

from integration.kv.relay import ADDRESS, Relay
from integration.kv.vllm_engine import KEY, prefill

from chaos.kv.stage import VICTIM_LEASE_S, Expected, Outcome, Question, Stage
from tandem_worker.kv.keys import KeyRing
from tandem_worker.kv.params import Ticket, issue_ticket

_TOKENS = 500
_WHOLE = Expected(8, (_TOKENS, _TOKENS))


def expire(stage: Stage) -> Outcome:
    """The decode leg comes after the lease has ended."""
    question = stage.make_question(_TOKENS)
    ticket = prefill(stage.victim, question.prompt)
    time.sleep(VICTIM_LEASE_S + 0.5)
    return _redeem(stage, question, ticket, "lease_expired")


def replay(stage: Stage) -> Outcome:
    """A ticket that was redeemed already."""
    question = stage.make_question(_TOKENS)
    ticket = prefill(stage.prefill, question.prompt)
    stage.decode.complete(question.prompt, kv_transfer_params=ticket)
    # another salt, or the decode engine's own prefix cache would answer
    return _redeem(stage, question, ticket, "lease_released", cache_salt="replay")


def forge_signature(stage: Stage) -> Outcome:
    """Signed with no key of this fleet."""
    question = stage.make_question(_TOKENS)
    ticket = prefill(stage.victim, question.prompt) | {"mac": "0" * 64}
    return _redeem(stage, question, ticket, "bad_signature")


def forge_blocks(stage: Stage) -> Outcome:
    """Well signed, but for another request's blocks."""
    question = stage.make_question(_TOKENS)
    ticket = prefill(stage.victim, question.prompt)
    others = [[block + 1 for block in ids] for ids in ticket["remote_block_ids"]]
    return _redeem(stage, question, _sign(ticket, remote_block_ids=others), "rejected_forged_blocks")


def swap_prompts(stage: Stage) -> Outcome:
    """The ticket of one prompt with the text of another."""
    question = stage.make_question(_TOKENS)
    return _redeem(stage, question, prefill(stage.prefill, stage.make_prompt(_TOKENS)), "prompt_mismatch")


def swallow_bytes(stage: Stage) -> Outcome:
    """The network goes silent in the middle of a chunk: no reset, no end."""
    question = stage.make_question(_TOKENS)
    ticket = prefill(stage.victim, question.prompt)
    blocks = sum(map(len, ticket["remote_block_ids"]))
    half = int(blocks / 2 * 4 * 2 * 32 * 128 * 4) + 10_000  # layers, heads, tokens, K and V of 64, float32
    relay = Relay((stage.victim.address, ticket["remote_port"]), half, is_black_hole=True)
    try:
        hidden = _sign(ticket, remote_host=ADDRESS, remote_port=relay.port)
        return stage.redeem(question, hidden, Expected(12, (1, _TOKENS - 1)))
    finally:
        relay.close()


def _redeem(stage: Stage, question: Question, ticket: dict[str, Any], reason: str, **body: Any) -> Outcome:
    outcome = stage.redeem(question, ticket, _WHOLE, **body)
    if reason not in outcome.summary:
        outcome.misses.append(f"should be counted as {reason}")
    return outcome


def _sign(ticket: dict[str, Any], **changes: Any) -> dict[str, Any]:
    fields = {name: ticket[name] for name in Ticket.model_fields if name not in ("kid", "mac")}
    return issue_ticket(fields | changes, KeyRing("k1", KEY)).to_params()
