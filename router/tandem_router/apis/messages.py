"""Anthropic's Messages API, as vLLM serves it."""

from tandem_router import jsontext
from tandem_router.apis.checks import build_checks
from tandem_router.apis.fault_shapes import ANTHROPIC
from tandem_router.apis.shape import Api, Fields, StreamShape
from tandem_router.apis.usage import read_messages_usage

STREAM = StreamShape((b"event: message_stop",), b"event: error", adds_usage=False, read_usage=read_messages_usage)


def whole_reason(fields: Fields) -> str | None:
    """A forced tool call cannot be cut after one token: vLLM reads its arguments as JSON, and would answer 500."""
    if fields.get("max_tokens") == 1:
        return "max_tokens"
    choice = fields.get("tool_choice")
    is_forced = isinstance(choice, dict) and choice.get("type") in ("any", "tool")
    return "tool_choice" if is_forced else None


def prompt(fields: Fields) -> bytes:
    """Tools, system text, then the messages, as in chat templates."""
    return b"".join(jsontext.dumps(fields[key]) for key in ("tools", "system", "messages") if fields.get(key))


MESSAGES = Api(
    path="/v1/messages",
    checks=build_checks(integers=("max_tokens",)),
    prefill_limits={"max_tokens": 1},
    whole_reason=whole_reason,
    prompt=prompt,
    read_usage=read_messages_usage,
    stream=STREAM,
    operation="chat",
    faults=ANTHROPIC,
)
COUNT_TOKENS = Api(
    path="/v1/messages/count_tokens",
    checks=build_checks(),
    prefill_limits={},
    whole_reason=lambda _: "count_tokens",
    prompt=lambda _: b"",
    read_usage=read_messages_usage,
    stream=STREAM,
    operation="count_tokens",
    faults=ANTHROPIC,
)
