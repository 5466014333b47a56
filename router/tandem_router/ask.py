"""What a client asks for: the body of a completion request, read, checked, and rewritten for each leg. No I/O.

The engine gets the client's bytes. Only named keys change: they are inserted after the opening brace where the
client did not set them, and only otherwise is the body serialised anew.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tandem_router import jsontext
from tandem_router.errors import BadRequestError

CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"

REFUSED_KEYS = {
    "kv_transfer_params": "Tandem moves the KV cache itself",
    "cache_salt": "Tandem sets it per tenant",
    "priority": "Tandem sets it per tenant",
    "data_parallel_rank": "Tandem chooses the worker",
    "request_id": "set the header x-request-id instead",
}
_INTEGERS = ("n", "best_of", "max_tokens", "max_completion_tokens", "min_tokens", "prompt_logprobs")
_BOOLEANS = ("stream", "echo", "use_beam_search")
_WHOLE_KEYS = frozenset(("n", "best_of", "echo", "prompt_logprobs", "prompt", "use_beam_search"))

PREFILL_KV_PARAMS = {"do_remote_decode": True, "do_remote_prefill": False}
BYTES_PER_TOKEN = 4  # of English text; only costs are estimated with it


@dataclass(frozen=True, slots=True)
class Ask:
    """One completion request.

    Attributes:
        fields: the parsed body.
        wants_usage: the client itself asked for the usage event.
        prompt: the text that the prefix index sees.
        whole_reason: why prefill and decode must stay on one worker; None if they may part.
    """

    path: str
    raw: bytes
    fields: dict[str, Any]
    model: str
    stream: bool
    wants_usage: bool
    prompt: bytes
    whole_reason: str | None

    @property
    def prompt_tokens(self) -> int:
        """Estimate, from the length of the text."""
        return len(self.prompt) // BYTES_PER_TOKEN + 1


def parse_ask(path: str, body: bytes) -> Ask:
    """Read the body of a completion request.

    Raises:
        BadRequestError: not a JSON object, a field of the wrong type, or one that only Tandem may set.
    """
    fields = _parse_object(body)
    for key, value in fields.items():
        check = _CHECKS.get(key)
        if check is not None:
            check(key, value)
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequestError("`model` is missing: name one of GET /v1/models.", code="model_missing", param="model")
    return Ask(
        path=path,
        raw=body,
        fields=fields,
        model=model,
        stream=bool(fields.get("stream")),
        wants_usage=_wants_usage(fields),
        prompt=prompt_bytes(fields),
        whole_reason=whole_reason(fields),
    )


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        fields = jsontext.loads(body)
    except jsontext.JSONDecodeError as error:
        raise BadRequestError(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise BadRequestError("The body must be a JSON object.", code="invalid_json")
    return fields


def _refuse(key: str, _: object) -> None:
    why = REFUSED_KEYS[key]
    raise BadRequestError(f"`{key}` may not be set by clients: {why}. Remove it.", code="field_refused", param=key)


# The engine coerces "2" to 2 and "true" to true; what we cannot read the same way we refuse.
def _require_integer(key: str, value: object) -> None:
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if value is not None and (isinstance(value, bool) or not is_whole):
        raise BadRequestError(f"`{key}` must be an integer.", code="invalid_type", param=key)


def _require_boolean(key: str, value: object) -> None:
    if not isinstance(value, bool | None):
        raise BadRequestError(f"`{key}` must be true or false.", code="invalid_type", param=key)


def _require_object(key: str, value: object) -> None:
    if not isinstance(value, dict | None):
        raise BadRequestError(f"`{key}` must be an object.", code="invalid_type", param=key)


_CHECKS: dict[str, Callable[[str, object], None]] = {
    **dict.fromkeys(REFUSED_KEYS, _refuse),
    **dict.fromkeys(_INTEGERS, _require_integer),
    **dict.fromkeys(_BOOLEANS, _require_boolean),
    "stream_options": _require_object,
}


def _wants_usage(fields: Mapping[str, Any]) -> bool:
    options = fields.get("stream_options") or {}
    return options.get("include_usage") is True


def whole_reason(fields: Mapping[str, Any]) -> str | None:
    """Why prefill and decode of this request must stay on one worker (DESIGN §10), or None."""
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


def prompt_bytes(fields: Mapping[str, Any]) -> bytes:
    """Text by which two requests are known to share a prefix: tools first, as in chat templates, then the messages.

    A conversation's next turn begins with the bytes of the turn before, but for the closing bracket.
    """
    prompt = fields.get("prompt")
    if isinstance(prompt, str):
        return prompt.encode()
    if prompt is not None:
        return jsontext.dumps(prompt)
    tools = fields.get("tools")
    messages = jsontext.dumps(fields.get("messages"))
    return jsontext.dumps(tools) + messages if tools else messages


def build_prefill_body(ask: Ask, model: str) -> bytes:
    """Body of the prefill leg: the same prompt, one token, not streamed, KV kept for a decode worker."""
    fields = {key: value for key, value in ask.fields.items() if key != "stream_options"}
    fields |= {"model": model, "stream": False, "max_tokens": 1, "kv_transfer_params": PREFILL_KV_PARAMS}
    if ask.path == CHAT_PATH:
        fields["max_completion_tokens"] = 1
    if fields.get("min_tokens"):
        fields["min_tokens"] = 1  # the engine refuses min_tokens > max_tokens
    return jsontext.dumps(fields)


def build_serving_body(ask: Ask, model: str, kv_transfer_params: Mapping[str, Any] | None) -> bytes:
    """Body of the leg that answers: the client's bytes, plus what Tandem needs."""
    changes: dict[str, Any] = {}
    if kv_transfer_params is not None:
        changes["kv_transfer_params"] = dict(kv_transfer_params)
    if ask.stream and not ask.wants_usage:
        changes["stream_options"] = {**(ask.fields.get("stream_options") or {}), "include_usage": True}
    if model != ask.model:
        changes["model"] = model
    return splice(ask.raw, ask.fields, changes)


def splice(raw: bytes, fields: Mapping[str, Any], changes: Mapping[str, Any]) -> bytes:
    """JSON object `raw` (parsed: `fields`) with the keys of `changes` set."""
    if not changes:
        return raw
    if any(key in fields for key in changes) or not fields:
        return jsontext.dumps({**fields, **changes})
    at = raw.index(b"{") + 1
    return b"".join((raw[:at], jsontext.dumps(dict(changes))[1:-1], b",", raw[at:]))
