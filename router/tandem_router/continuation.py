"""Whether, and with what request, a broken stream is gone on with elsewhere (`routing.continuation: Tokens`). Pure."""

from typing import Any

from tandem_router import jsontext
from tandem_router.apis.completions import CHAT
from tandem_router.ask import Ask
from tandem_router.token_trail import TokenTrail

# Each of these makes the rest of an answer depend on more than the tokens before it, or the events on more than text.
_STATEFUL = (
    "tools", "functions", "stop", "logprobs", "top_logprobs", "prompt_logprobs", "structured_outputs", "guided_json",
    "guided_regex", "guided_choice", "guided_grammar", "suffix", "return_token_ids", "return_tokens_as_token_ids",
    "prompt_embeds", "thinking_token_budget", "allowed_token_ids", "bad_words",
)  # fmt: skip
_DEFAULT_TEXT_TOKENS = 16  # max_tokens of /v1/completions where the client sets none


def can_trace(ask: Ask) -> bool:
    """`ask` wants one answer of plain text, as a stream, from a prompt of plain text."""
    fields = ask.fields
    return (
        ask.stream
        and ask.api.continues
        and ask.whole_reason in (None, "max_tokens")
        and not any(fields.get(key) for key in _STATEFUL)
        and fields.get("response_format") in (None, {"type": "text"})
        and is_reproducible(fields)
        and all(map(is_text_message, fields.get("messages") or ()))
    )


def is_reproducible(fields: dict[str, Any]) -> bool:
    """No seed, or none that matters: what follows a seed's first numbers cannot be drawn again elsewhere."""
    return fields.get("seed") is None or fields.get("temperature") == 0


def is_text_message(message: object) -> bool:
    """A message without pictures or sound."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return True
    return all(isinstance(part, dict) and part.get("type") == "text" for part in content)


def traced(ask: Ask) -> Ask:
    """`ask`, with the engine telling the tokens of its answer."""
    return ask._replace(traces_tokens=True)


def plan_continuation(ask: Ask, trail: TokenTrail) -> Ask:
    """The request that yields what is missing after `trail`.

    Chat requests keep their messages, and vLLM reads `kv_transfer_params.prompt_token_ids` in their place; the
    prompt of a text request is replaced by the tokens.
    """
    ids = [*(trail.prompt_ids or ()), *trail.sent_ids]
    fields = {**ask.fields, **_left_limits(ask, len(trail.sent_ids))}
    if ask.api is not CHAT:
        fields["prompt"] = ids
    return ask._replace(
        fields=fields,
        raw=jsontext.dumps(fields),
        prompt_token_ids=ids if ask.api is CHAT else None,
        whole_reason=None,
    )


def _left_limits(ask: Ask, sent: int) -> dict[str, int]:
    fields = ask.fields
    limits = {key: fields[key] for key in ("max_tokens", "max_completion_tokens") if fields.get(key)}
    if ask.api is not CHAT and not limits:
        limits = {"max_tokens": _DEFAULT_TEXT_TOKENS}
    left = {key: max(1, limit - sent) for key, limit in limits.items()}
    return left | ({"min_tokens": max(0, fields["min_tokens"] - sent)} if fields.get("min_tokens") else {})
