"""OpenAI's Responses API, stateless: what would have to be kept between requests is refused."""

from tandem_router import jsontext
from tandem_router.apis.checks import build_checks
from tandem_router.apis.fault_shapes import RESPONSES as FAULTS
from tandem_router.apis.shape import Api, Fields, StreamShape
from tandem_router.apis.usage import read_responses_usage
from tandem_router.errors import BadRequestError

_STATEFUL = {
    "store": "responses are not kept; send `store: false` or leave it out",
    "background": "responses are not kept; ask without it and read the stream",
    "previous_response_id": "responses are not kept; send the whole conversation as `input`",
    "conversation": "conversations are not kept; send the whole conversation as `input`",
}


def refuse_state(key: str, value: object) -> None:
    """Raises: BadRequestError where the field asks for something to be kept."""
    if value not in (None, False):
        message = f"`{key}` is not supported: {_STATEFUL[key]}."
        raise BadRequestError(message, code="unsupported_parameter", param=key)


def whole_reason(fields: Fields) -> str | None:
    """Built-in tools run inside the engine, turn by turn: the KV of one prefill would not be theirs."""
    if fields.get("max_output_tokens") == 1:
        return "max_tokens"
    tools = fields.get("tools") or ()
    is_plain = isinstance(tools, list | tuple) and all(map(_is_function, tools))
    return None if is_plain else "builtin_tools"


def _is_function(tool: object) -> bool:
    return isinstance(tool, dict) and tool.get("type") == "function"


def prompt(fields: Fields) -> bytes:
    """Tools, instructions, then the input, as in chat templates."""
    return b"".join(jsontext.dumps(fields[key]) for key in ("tools", "instructions", "input") if fields.get(key))


API = Api(
    path="/v1/responses",
    checks=build_checks(integers=("max_output_tokens", "min_tokens")) | dict.fromkeys(_STATEFUL, refuse_state),
    prefill_limits={"max_output_tokens": 1},
    whole_reason=whole_reason,
    prompt=prompt,
    read_usage=read_responses_usage,
    stream=StreamShape(
        (b"event: response.completed", b"event: response.incomplete", b"event: response.failed"),
        b"event: error",
        adds_usage=False,
        read_usage=read_responses_usage,
    ),
    operation="chat",
    faults=FAULTS,
)
