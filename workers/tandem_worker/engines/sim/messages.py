"""The sim engine's side of Anthropic's Messages API: bodies read into chat requests, answers in its events. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from tandem_worker.engines.sim.openai import CompletionRequest, Limits, RequestError, Usage, read_request

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_CHOICES = {"any": "required", "auto": "auto", "none": "none"}


def read_message(raw: bytes, limits: Limits) -> CompletionRequest:
    """Check a body. Raises RequestError as `read_request` does."""
    body = _parse(raw)
    if "max_tokens" not in body:
        raise RequestError(400, "BadRequestError", "max_tokens is required", "max_tokens")
    return _read(body, limits)


def count_message_tokens(raw: bytes, limits: Limits) -> int:
    """Tokens of the prompt. Raises RequestError as `read_request` does."""
    return _read({**_parse(raw), "max_tokens": 1}, limits).prompt_tokens


def _read(body: Mapping[str, Any], limits: Limits) -> CompletionRequest:
    return read_request(json.dumps(to_chat(body)).encode(), limits, is_chat=True)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise RequestError(400, "BadRequestError", f"body: {error}") from error
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise RequestError(400, "BadRequestError", "messages is required", "messages")
    return body


def to_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The chat request that vLLM would make of a message."""
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    chat = {key: body[key] for key in ("model", "max_tokens", "stream", "kv_transfer_params") if key in body}
    chat |= {"messages": [*system, *map(_to_message, body["messages"])], "tools": body.get("tools")}
    choice = body.get("tool_choice")
    if choice:
        chat["tool_choice"] = _CHOICES.get(choice["type"]) or {"function": {"name": choice["name"]}}
    return chat


def _to_message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return dict(message)
    if any(block.get("type") == "tool_result" for block in content):
        return {"role": "tool", "content": json.dumps(content)}
    return {"role": message["role"], "content": [one if one.get("text") else {"text": str(one)} for one in content]}


class MessageWriter:
    """Builds the pieces of one message."""

    def __init__(self, request: CompletionRequest, request_id: str, model: str, _created: int) -> None:
        self._answer = request.answer
        self._prompt_tokens = request.prompt_tokens
        self._tool_id = f"toolu_{request_id[-24:]}"
        self._base = {"id": f"msg_{request_id}", "type": "message", "role": "assistant", "model": model}
        self._reason: str | None = None

    def build_opening(self) -> bytes:
        """`message_start` and the start of the only block."""
        usage = {"input_tokens": self._prompt_tokens, "output_tokens": 0}
        message: dict[str, Any] = {
            **self._base,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        start = _event("message_start", message=message)
        return start + _event("content_block_start", index=0, content_block=self._block("", {}))

    def build_event(self, text: str, finish_reason: str | None) -> bytes:
        """One streamed token."""
        self._reason = finish_reason
        is_call = self._answer.kind == "call"
        delta = {"type": "input_json_delta", "partial_json": text} if is_call else {"type": "text_delta", "text": text}
        return _event("content_block_delta", index=0, delta=delta)

    def build_closing(self, usage: Usage) -> bytes:
        """All that follows the last token."""
        delta = {"stop_reason": _STOP_REASONS[self._reason or "stop"], "stop_sequence": None}
        ending = _event("message_delta", delta=delta, usage=_usage(usage))
        return _event("content_block_stop", index=0) + ending + _event("message_stop")

    def build_whole(self, text: str, usage: Usage, kv_transfer_params: Mapping[str, Any] | None) -> dict[str, Any]:
        """The answer that is not streamed. Like vLLM's, it leaves out what is null."""
        reason = _STOP_REASONS[self._answer.finish_reason(usage.completion_tokens)]
        arguments = json.loads(text) if reason == "tool_use" else {}
        params = {} if kv_transfer_params is None else {"kv_transfer_params": kv_transfer_params}
        content = [self._block(text, arguments)]
        return {**self._base, "content": content, "stop_reason": reason, "usage": _usage(usage), **params}

    def _block(self, text: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if self._answer.kind == "call":
            return {"type": "tool_use", "id": self._tool_id, "name": self._answer.function, "input": arguments}
        return {"type": "text", "text": text}


def _usage(usage: Usage) -> dict[str, int]:
    uncached = usage.prompt_tokens - usage.cached_tokens
    tokens = {"input_tokens": uncached, "output_tokens": usage.completion_tokens}
    return tokens | {"cache_read_input_tokens": usage.cached_tokens}


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()
