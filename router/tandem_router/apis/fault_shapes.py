"""How each API tells its clients that something went wrong: the body of an answer, and an event in a stream."""

from collections.abc import Callable
from dataclasses import dataclass

from tandem_router import jsontext
from tandem_router.errors import RequestError


@dataclass(frozen=True, slots=True)
class FaultShape:
    """Writes errors as the clients of one API read them."""

    build_body: Callable[[RequestError], bytes]
    build_event: Callable[[RequestError], bytes]


def build_openai_event(error: RequestError) -> bytes:
    """OpenAI's clients raise on any event whose data has `error`."""
    return b"data: " + error.to_json() + b"\n\n"


def build_responses_event(error: RequestError) -> bytes:
    """The `error` event of the Responses API; what OpenAI's clients raise on is `error` inside it."""
    fields = error.to_fields()
    data = {**fields, "error": fields, "type": "error", "sequence_number": 0}
    return b"event: error\ndata: " + jsontext.dumps(data) + b"\n\n"


_ANTHROPIC_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def build_anthropic_body(error: RequestError) -> bytes:
    """`{"type": "error", "error": {"type", "message"}}`, with our `code` and `param` besides."""
    is_ours = error.status >= 500 or error.status == 200
    kind = _ANTHROPIC_KINDS.get(error.status, "api_error" if is_ours else "invalid_request_error")
    return jsontext.dumps({"type": "error", "error": {**error.to_fields(), "type": kind}})


def build_anthropic_event(error: RequestError) -> bytes:
    """The `error` event of the Messages API."""
    return b"event: error\ndata: " + build_anthropic_body(error) + b"\n\n"


OPENAI = FaultShape(RequestError.to_json, build_openai_event)
RESPONSES = FaultShape(RequestError.to_json, build_responses_event)
ANTHROPIC = FaultShape(build_anthropic_body, build_anthropic_event)
