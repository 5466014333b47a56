"""OpenAI's chat completions and completions."""

from tandem_router import jsontext
from tandem_router.apis.checks import build_checks, require_object
from tandem_router.apis.shape import Api, Fields, StreamShape
from tandem_router.apis.usage import read_completion_usage

_INTEGERS = ("n", "best_of", "max_tokens", "max_completion_tokens", "min_tokens", "prompt_logprobs")
_CHECKS = build_checks(integers=_INTEGERS, booleans=("stream", "echo", "use_beam_search")) | {
    "stream_options": require_object
}
_WHOLE_KEYS = frozenset(("n", "best_of", "echo", "prompt_logprobs", "prompt", "use_beam_search"))

STREAM = StreamShape((b"data: [DONE]",), b'data: {"error"', adds_usage=True, read_usage=read_completion_usage)


def whole_reason(fields: Fields) -> str | None:
    """Several answers, or the prompt's own probabilities, need all of the prompt's state in one place."""
    if not _WHOLE_KEYS.isdisjoint(fields):
        rules = (
            ((fields.get("n") or 1) != 1, "n"),
            ((fields.get("best_of") or 1) != 1, "best_of"),
            (bool(fields.get("echo")), "echo"),
            (fields.get("prompt_logprobs") is not None, "prompt_logprobs"),
            (isinstance(fields.get("prompt"), list), "prompt_list"),
            (bool(fields.get("use_beam_search")), "beam_search"),
        )
        if reason := next((name for is_true, name in rules if is_true), None):
            return reason
    limit = fields.get("max_completion_tokens") or fields.get("max_tokens")
    return "max_tokens" if limit == 1 else None


def chat_prompt(fields: Fields) -> bytes:
    """Tools first, as in chat templates, then the messages.

    A conversation's next turn begins with the bytes of the turn before, but for the closing bracket.
    """
    tools = fields.get("tools")
    messages = jsontext.dumps(fields.get("messages"))
    return jsontext.dumps(tools) + messages if tools else messages


def text_prompt(fields: Fields) -> bytes:
    """The text itself, or the JSON of a list."""
    prompt = fields.get("prompt")
    return prompt.encode() if isinstance(prompt, str) else jsontext.dumps(prompt)


CHAT = Api(
    path="/v1/chat/completions",
    checks=_CHECKS,
    prefill_limits={"max_tokens": 1, "max_completion_tokens": 1},
    whole_reason=whole_reason,
    prompt=chat_prompt,
    read_usage=read_completion_usage,
    stream=STREAM,
    operation="chat",
    continues=True,
)
TEXT = Api(
    path="/v1/completions",
    checks=_CHECKS,
    prefill_limits={"max_tokens": 1},
    whole_reason=whole_reason,
    prompt=text_prompt,
    read_usage=read_completion_usage,
    stream=STREAM,
    operation="text_completion",
    continues=True,
)
