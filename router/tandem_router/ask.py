"""What a client asks for: the body of a request, read, checked, and rewritten for each leg. No I/O.

The engine gets the client's bytes. Only named keys change: they are inserted after the opening brace where the
client did not set them, and only otherwise is the body serialised anew.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tandem_router import jsontext
from tandem_router.apis.shape import Api
from tandem_router.errors import BadRequestError

PREFILL_KV_PARAMS = {"do_remote_decode": True, "do_remote_prefill": False}
BYTES_PER_TOKEN = 4  # of English text; only costs are estimated with it


class Ask(NamedTuple):
    """One request for tokens.

    Attributes:
        fields: the parsed body.
        wants_usage: the client itself asked for the usage event.
        prompt: the text that the prefix index sees.
        whole_reason: why prefill and decode must stay on one worker; None if they may part.
        prompt_token_ids: what the engine is to read instead of the prompt; None but for an answer that goes on.
        cache_salt: keeps this prompt's cached prefixes apart from those of other tenants; None shares them.
        traces_tokens: the answering leg tells token ids, so that the answer can go on elsewhere.
    """

    api: Api
    raw: bytes
    fields: dict[str, Any]
    model: str
    stream: bool
    wants_usage: bool
    prompt: bytes
    whole_reason: str | None
    cache_salt: str | None = None
    prompt_token_ids: list[int] | None = None
    traces_tokens: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Estimate, from the length of the text."""
        return len(self.prompt) // BYTES_PER_TOKEN + 1


def parse_ask(api: Api, body: bytes, cache_salt: str | None = None) -> Ask:
    """Read the body of a request.

    Raises:
        BadRequestError: not a JSON object, a field of the wrong type, or one that only Tandem may set.
    """
    fields = _parse_object(body)
    checks = api.checks
    for key, value in fields.items():
        check = checks.get(key)
        if check is not None:
            check(key, value)
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequestError("`model` is missing: name one of GET /v1/models.", code="model_missing", param="model")
    return Ask(
        api=api,
        raw=body,
        fields=fields,
        model=model,
        stream=bool(fields.get("stream")),
        wants_usage=not api.stream.adds_usage or _wants_usage(fields),
        prompt=api.prompt(fields),
        whole_reason=api.whole_reason(fields),
        cache_salt=cache_salt,
    )


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        fields = jsontext.loads(body)
    except jsontext.JSONDecodeError as error:
        raise BadRequestError(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise BadRequestError("The body must be a JSON object.", code="invalid_json")
    return fields


def _wants_usage(fields: Mapping[str, Any]) -> bool:
    options = fields.get("stream_options") or {}
    return options.get("include_usage") is True


def build_prefill_body(ask: Ask, model: str) -> bytes:
    """Body of the prefill leg: the same prompt, one token, not streamed, KV kept for a decode worker."""
    fields = {key: value for key, value in ask.fields.items() if key != "stream_options"}
    fields |= {"model": model, "stream": False, **ask.api.prefill_limits}
    fields["kv_transfer_params"] = _kv_params(ask, PREFILL_KV_PARAMS)
    if ask.cache_salt is not None:
        fields["cache_salt"] = ask.cache_salt
    if fields.get("min_tokens"):
        fields["min_tokens"] = 1  # the engine refuses min_tokens > max_tokens
    return jsontext.dumps(fields)


def build_serving_body(ask: Ask, model: str, kv_transfer_params: Mapping[str, Any] | None) -> bytes:
    """Body of the leg that answers: the client's bytes, plus what Tandem needs."""
    changes: dict[str, Any] = {}
    if kv_transfer_params is not None or ask.prompt_token_ids is not None:
        changes["kv_transfer_params"] = _kv_params(ask, kv_transfer_params or {})
    if ask.stream and not ask.wants_usage:
        changes["stream_options"] = {**(ask.fields.get("stream_options") or {}), "include_usage": True}
    if ask.cache_salt is not None:
        changes["cache_salt"] = ask.cache_salt
    if ask.traces_tokens:
        changes["return_token_ids"] = True
    if model != ask.model:
        changes["model"] = model
    return splice(ask.raw, ask.fields, changes)


def _kv_params(ask: Ask, params: Mapping[str, Any]) -> dict[str, Any]:
    if ask.prompt_token_ids is None:
        return dict(params)
    return {**params, "prompt_token_ids": ask.prompt_token_ids}  # vLLM reads them instead of the messages


def splice(raw: bytes, fields: Mapping[str, Any], changes: Mapping[str, Any]) -> bytes:
    """JSON object `raw` (parsed: `fields`) with the keys of `changes` set."""
    if not changes:
        return raw
    if any(key in fields for key in changes) or not fields:
        return jsontext.dumps({**fields, **changes})
    at = raw.index(b"{") + 1
    return b"".join((raw[:at], jsontext.dumps(dict(changes))[1:-1], b",", raw[at:]))
