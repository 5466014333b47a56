"""The sim engine's side of OpenAI's Responses API: bodies read into chat requests, answers in its events. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from tandem_worker.engines.sim.openai import CompletionRequest, Limits, RequestError, Usage, read_request


def read_response_request(raw: bytes, limits: Limits) -> CompletionRequest:
    """Check a body. Raises RequestError as `read_request` does."""
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise RequestError(400, "BadRequestError", f"body: {error}") from error
    if not isinstance(body, dict) or not body.get("input"):
        raise RequestError(400, "BadRequestError", "input is required", "input")
    return read_request(json.dumps(to_chat(body)).encode(), limits, is_chat=True)


def to_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The chat request that vLLM would make of it."""
    system = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    given = body["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else list(map(_to_message, given))
    chat = {key: body[key] for key in ("model", "stream", "kv_transfer_params", "tools", "tool_choice") if key in body}
    chat |= {"messages": system + items, "max_tokens": body.get("max_output_tokens")}
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") in ("json_schema", "json_object"):
        chat["response_format"] = {"type": form["type"], "json_schema": form}
    return chat


def _to_message(item: Mapping[str, Any]) -> dict[str, Any]:
    if item.get("type") == "function_call_output":
        return {"role": "tool", "content": json.dumps(item.get("output"))}
    if item.get("type") == "function_call":
        return {"role": "assistant", "content": str(item.get("arguments"))}
    return {"role": item.get("role", "user"), "content": item.get("content")}


class ResponseWriter:
    """Builds the pieces of one response."""

    def __init__(self, request: CompletionRequest, request_id: str, model: str, created: int) -> None:
        self._answer = request.answer
        self._item_id = f"item_{request_id[-24:]}"
        self._text = ""
        self._number = 0
        self._base = {
            "id": f"resp_{request_id}",
            "object": "response",
            "created_at": created,
            "model": model,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }

    def build_opening(self) -> bytes:
        """`response.created` and the start of the only item."""
        response = {**self._base, "status": "in_progress", "output": []}
        events = self._event("response.created", response=response)
        events += self._event("response.output_item.added", output_index=0, item=self._item("", "in_progress"))
        if self._answer.kind != "call":
            events += self._event("response.content_part.added", **self._place(), part=_part(""))
        return events

    def build_event(self, text: str, finish_reason: str | None) -> bytes:
        """One streamed token."""
        self._text += text
        if self._answer.kind == "call":
            place = {"item_id": self._item_id, "output_index": 0}
            return self._event("response.function_call_arguments.delta", **place, delta=text)
        return self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def build_closing(self, usage: Usage) -> bytes:
        """All that follows the last token."""
        if self._answer.kind == "call":
            place = {"item_id": self._item_id, "output_index": 0, "name": self._answer.function}
            done = self._event("response.function_call_arguments.done", **place, arguments=self._text)
        else:
            done = self._event("response.output_text.done", **self._place(), text=self._text, logprobs=[])
            done += self._event("response.content_part.done", **self._place(), part=_part(self._text))
        done += self._event("response.output_item.done", output_index=0, item=self._item(self._text, "completed"))
        whole = self.build_whole(self._text, usage, None)
        return done + self._event(f"response.{whole['status']}", response=whole)

    def build_whole(self, text: str, usage: Usage, kv_transfer_params: Mapping[str, Any] | None) -> dict[str, Any]:
        """The answer that is not streamed."""
        is_cut = self._answer.finish_reason(usage.completion_tokens) == "length"
        return {
            **self._base,
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": [self._item(text, "completed")],
            "usage": _usage(usage),
            "kv_transfer_params": kv_transfer_params,
        }

    def _item(self, text: str, status: str) -> dict[str, Any]:
        base = {"id": self._item_id, "status": status}
        if self._answer.kind == "call":
            call = {"call_id": f"call_{self._item_id}", "name": self._answer.function, "arguments": text}
            return {**base, "type": "function_call", **call}
        content = [_part(text)] if status == "completed" else []
        return {**base, "type": "message", "role": "assistant", "content": content}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
