"""Requests and answers in OpenAI's shape, as vLLM reads and writes them. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem_worker.engines.sim.answers import WORDS, Answer, functions_of, plan_answer
from tandem_worker.engines.sim.text import count_tokens, decode, encode, encode_word

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
    prompt: str | list[Annotated[int, Field(ge=0)]] | None = None
    messages: list[_Message] | None = Field(default=None, min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int = 1
    stream: bool = False
    stream_options: _StreamOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    return_token_ids: bool = False
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
    answer: Answer = WORDS
    prompt_ids: tuple[int, ...] | None = None  # told to clients that ask for token ids


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
    ids = _given_ids(body, is_chat=is_chat)
    prompt = _render(body, is_chat=is_chat) if ids is None else decode(ids)
    prompt_tokens = count_tokens(prompt) if ids is None else len(ids)
    answer = _plan_answer(body) if is_chat else WORDS
    asked = body.max_completion_tokens or body.max_tokens
    return CompletionRequest(
        is_chat=is_chat,
        prompt=prompt,
        prompt_tokens=prompt_tokens,
        max_tokens=answer.limit(limit_tokens(asked, prompt_tokens, limits)),
        stream=body.stream,
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        cache_salt=body.cache_salt,
        kv_transfer_params=body.kv_transfer_params or {},
        answer=answer,
        prompt_ids=tuple(ids or encode(prompt)) if body.return_token_ids else None,
    )


def limit_tokens(asked: int | None, prompt_tokens: int, limits: Limits) -> int:
    """Tokens that an answer may have. Raises RequestError: there is no room for what was asked."""
    room = limits.max_model_len - prompt_tokens
    wanted = asked or min(limits.default_max_tokens, max(room, 1))
    if wanted > room:
        raise _bad(
            f"This model's maximum context length is {limits.max_model_len} tokens; {prompt_tokens} in the prompt and "
            f"{wanted} in the answer are more.",
            "max_tokens",
        )
    return wanted


def _given_ids(body: _Body, *, is_chat: bool) -> list[int] | None:
    """Tokens that stand in place of the prompt: like vLLM's, chats take them from kv_transfer_params."""
    if is_chat:
        return (body.kv_transfer_params or {}).get("prompt_token_ids")
    return body.prompt if isinstance(body.prompt, list) else None


def _plan_answer(body: _Body) -> Answer:
    last = body.messages[-1].role if body.messages else ""
    return plan_answer(
        functions_of(body.tools or ()),
        choice=_chosen(body.tool_choice),
        schema=_wanted_schema(body.response_format or {}),
        awaits_call=last != "tool",
    )


def _chosen(choice: str | dict[str, Any] | None) -> str | None:
    if isinstance(choice, dict):
        return str(choice.get("function", choice).get("name"))
    return None if choice == "auto" else choice


def _wanted_schema(form: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if form.get("type") == "json_object":
        return {"type": "object"}
    return form["json_schema"].get("schema", {}) if form.get("type") == "json_schema" else None


def _parse(raw: bytes) -> _Body:
    try:
        return _Body.model_validate_json(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        param = ".".join(map(str, fault["loc"])) or None
        raise _bad(f"{param or 'body'}: {fault['msg']}", param) from error


def _render(body: _Body, *, is_chat: bool) -> str:
    if is_chat:
        if body.messages is None:
            raise _bad("messages: Field required", "messages")
        return _apply_template(body.messages, body)
    if not isinstance(body.prompt, str):
        raise _bad("prompt: Field required", "prompt")
    return body.prompt


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
        self._request = request
        self._is_chat = request.is_chat
        self._call_id = f"call_{request_id[-24:]}"
        self._base = {"id": request_id, "created": created, "model": model}

    def build_event(self, text: str, finish_reason: str | None) -> bytes:
        """One streamed token."""
        part: dict[str, Any] = {"delta": self._build_delta(text)} if self._is_chat else {"text": text}
        return self._event([self._choice(part, finish_reason) | self._told(text)])

    def build_opening(self) -> bytes:
        """What a chat stream begins with: the role. A text stream begins with its first token."""
        if not self._is_chat:
            return b""
        delta: dict[str, Any] = {"role": "assistant", "content": ""}
        if self._request.answer.kind == "call":
            delta |= {"content": None, "tool_calls": [{"index": 0, **self._build_call("")}]}
        return self._event([self._choice({"delta": delta}, None)], **self._told_prompt())

    def build_closing(self, usage: Usage) -> bytes:
        """What a stream ends with; first the extra event of `stream_options.include_usage`."""
        return (self._event([], usage=usage.to_dict()) if self._request.include_usage else b"") + DONE

    def build_whole(self, text: str, usage: Usage, kv_transfer_params: Mapping[str, Any] | None) -> dict[str, Any]:
        """The answer that is not streamed."""
        part = {"message": self._build_message(text)} if self._is_chat else {"text": text}
        return {
            **self._base,
            "object": "chat.completion" if self._is_chat else "text_completion",
            "choices": [self._choice(part, self._request.answer.finish_reason(usage.completion_tokens))],
            "usage": usage.to_dict(),
            "kv_transfer_params": kv_transfer_params,
        }

    def _build_message(self, text: str) -> dict[str, Any]:
        if self._request.answer.kind == "call":
            return {"role": "assistant", "content": None, "tool_calls": [self._build_call(text)]}
        return {"role": "assistant", "content": text}

    def _build_delta(self, text: str) -> dict[str, Any]:
        if self._request.answer.kind == "call":
            return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        return {"content": text}

    def _build_call(self, arguments: str) -> dict[str, Any]:
        function = {"name": self._request.answer.function, "arguments": arguments}
        return {"id": self._call_id, "type": "function", "function": function}

    def _choice(self, part: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, **part, "logprobs": None, "finish_reason": finish_reason}

    def _told(self, text: str) -> dict[str, Any]:
        if self._request.prompt_ids is None:
            return {}
        return {"token_ids": [encode_word(text)], **({} if self._is_chat else self._told_prompt())}

    def _told_prompt(self) -> dict[str, Any]:
        ids = self._request.prompt_ids
        return {} if ids is None else {"prompt_token_ids": ids}

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        return b"data: " + json.dumps({**self._base, "object": kind, "choices": choices, **more}).encode() + b"\n\n"
