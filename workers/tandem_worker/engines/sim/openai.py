"""Requests and answers in OpenAI's shape, as vLLM reads and writes them. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem_worker.engines.sim.text import count_tokens

DONE = b"data: [DONE]\n\n"


class RequestError(ValueError):
    """A request that cannot be served; `to_body` is the answer."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def to_body(self) -> dict[str, Any]:
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}
        return {"error": error}


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: str
    content: str | list[dict[str, Any]] | None = None

    def to_text(self) -> str:
        if isinstance(self.content, list):
            return "".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class _Body(BaseModel):
    """What this engine heeds; other fields are accepted and without effect, as sampling has none on invented text."""

    model_config = ConfigDict(extra="ignore")

    model: str
    prompt: str | list[int] | None = None
    messages: list[_Message] | None = Field(default=None, min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int = 1
    stream: bool = False
    stream_options: _StreamOptions | None = None
    cache_salt: str = ""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    kv_transfer_params: dict[str, Any] | None = None


@dataclass(frozen=True)
class CompletionRequest:
    """A checked request. `prompt` is the text after the chat template."""

    is_chat: bool
    prompt: str
    prompt_tokens: int
    max_tokens: int
    stream: bool
    include_usage: bool
    cache_salt: str
    kv_transfer_params: Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """What requests are checked against."""

    served_name: str
    max_model_len: int
    default_max_tokens: int


def read_request(raw: bytes, limits: Limits, *, is_chat: bool) -> CompletionRequest:
    """Check a body. Raises RequestError: 404 for another model, 400 for anything else."""
    body = _parse(raw)
    if body.model != limits.served_name:
        raise RequestError(404, "NotFoundError", f"The model `{body.model}` does not exist.", "model")
    if body.n != 1:
        raise _bad("n must be 1 with engine sim", "n")
    prompt, prompt_tokens = _render(body, is_chat=is_chat)
    room = limits.max_model_len - prompt_tokens
    wanted = body.max_completion_tokens or body.max_tokens or min(limits.default_max_tokens, max(room, 1))
    if wanted > room:
        raise _bad(
            f"This model's maximum context length is {limits.max_model_len} tokens; {prompt_tokens} in the prompt and "
            f"{wanted} in the answer are more.",
            "max_tokens",
        )
    return CompletionRequest(
        is_chat=is_chat,
        prompt=prompt,
        prompt_tokens=prompt_tokens,
        max_tokens=wanted,
        stream=body.stream,
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        cache_salt=body.cache_salt,
        kv_transfer_params=body.kv_transfer_params or {},
    )


def _parse(raw: bytes) -> _Body:
    try:
        return _Body.model_validate_json(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        param = ".".join(map(str, fault["loc"])) or None
        raise _bad(f"{param or 'body'}: {fault['msg']}", param) from error


def _render(body: _Body, *, is_chat: bool) -> tuple[str, int]:
    if is_chat:
        if body.messages is None:
            raise _bad("messages: Field required", "messages")
        text = _apply_template(body.messages, body)
        return text, count_tokens(text)
    if body.prompt is None:
        raise _bad("prompt: Field required", "prompt")
    if isinstance(body.prompt, list):
        return " ".join(map(str, body.prompt)), max(1, len(body.prompt))
    return body.prompt, count_tokens(body.prompt)


def _apply_template(messages: list[_Message], body: _Body) -> str:
    text = "".join(f"{message.role}: {message.to_text()}\n" for message in messages)
    if body.continue_final_message:
        return text.removesuffix("\n")
    return f"{text}assistant: " if body.add_generation_prompt else text


def _bad(message: str, param: str | None) -> RequestError:
    return RequestError(400, "BadRequestError", message, param)


@dataclass(frozen=True)
class Usage:
    """Token counts of one answer."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class AnswerWriter:
    """Builds the pieces of one answer.

    Args:
        created: Unix time in seconds.
    """

    def __init__(self, request: CompletionRequest, request_id: str, model: str, created: int) -> None:
        self._is_chat = request.is_chat
        self._base = {"id": request_id, "created": created, "model": model}

    def build_event(self, text: str, finish_reason: str | None) -> bytes:
        """One streamed token."""
        if self._is_chat:
            choice: dict[str, Any] = {"index": 0, "delta": {"content": text}}
        else:
            choice = {"index": 0, "text": text}
        return self._event([choice | {"logprobs": None, "finish_reason": finish_reason}])

    def build_opening(self) -> bytes:
        """What a chat stream begins with: the role. A text stream begins with its first token."""
        if not self._is_chat:
            return b""
        delta = {"role": "assistant", "content": ""}
        return self._event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def build_usage_event(self, usage: Usage) -> bytes:
        """The extra event of `stream_options.include_usage`."""
        return self._event([], usage=usage.to_dict())

    def build_whole(self, text: str, usage: Usage, kv_transfer_params: Mapping[str, Any] | None) -> dict[str, Any]:
        """The answer that is not streamed."""
        part = {"message": {"role": "assistant", "content": text}} if self._is_chat else {"text": text}
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": "length"}
        kind = "chat.completion" if self._is_chat else "text_completion"
        return {
            **self._base,
            "object": kind,
            "choices": [choice],
            "usage": usage.to_dict(),
            "kv_transfer_params": kv_transfer_params,
        }

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        return b"data: " + json.dumps({**self._base, "object": kind, "choices": choices, **more}).encode() + b"\n\n"
