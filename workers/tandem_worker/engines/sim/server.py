"""The sim engine's HTTP server: routes, gate, streaming."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web
from pydantic import ValidationError

from tandem_worker.bearer import BearerKeys
from tandem_worker.engines.sim.embeddings import EmbeddingBody, build_embeddings
from tandem_worker.engines.sim.faults import FAULTS_PATH, Fault, FaultKind, FaultSwitch
from tandem_worker.engines.sim.generation import BrokenConnectionError, Generator, Prepared, count_usage
from tandem_worker.engines.sim.http_gate import HttpGate
from tandem_worker.engines.sim.messages import MessageWriter, count_message_tokens, read_message
from tandem_worker.engines.sim.openai import (
    AnswerWriter,
    CompletionRequest,
    Limits,
    RequestError,
    Usage,
    read_request,
)
from tandem_worker.engines.sim.responses import ResponseWriter, read_response_request
from tandem_worker.gate import HEALTH_PATH

MAX_BODY_BYTES = 64 << 20
Reader = Callable[[bytes, Limits], CompletionRequest]


class Writer(Protocol):
    """Builds the pieces of one answer in the shape of its API."""

    def build_opening(self) -> bytes:
        """What a stream begins with."""

    def build_event(self, text: str, finish_reason: str | None) -> bytes:
        """One streamed token."""

    def build_closing(self, usage: Usage) -> bytes:
        """What a stream ends with."""

    def build_whole(self, text: str, usage: Usage, kv_transfer_params: Mapping[str, Any] | None) -> dict[str, Any]:
        """The answer that is not streamed."""


MakeWriter = Callable[[CompletionRequest, str, str, int], Writer]
GARBAGE = b'{"id": "cmpl-garbage", "choices": [{"text": \xff\xfe'


class SimServer:
    """HTTP handlers of the sim engine.

    Args:
        render_metrics: Prometheus text under vLLM's names.
        is_healthy: whether the modelled start is over.
    """

    def __init__(
        self,
        limits: Limits,
        generator: Generator,
        faults: FaultSwitch,
        render_metrics: Callable[[], str],
        is_healthy: Callable[[], bool],
    ) -> None:
        self._limits = limits
        self._generator = generator
        self._faults = faults
        self._render_metrics = render_metrics
        self._is_healthy = is_healthy

    def build_app(self, keys: BearerKeys, run_dir: Path) -> web.Application:
        """All routes behind the gate that vLLM's middleware is, too."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[HttpGate(keys, run_dir)])
        app.router.add_get(HEALTH_PATH, self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get(FAULTS_PATH, self.read_fault)
        app.router.add_post(FAULTS_PATH, self.set_fault)
        app.router.add_post("/v1/completions", self.complete)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/messages", self.message)
        app.router.add_post("/v1/messages/count_tokens", self.count_tokens)
        app.router.add_post("/v1/responses", self.respond)
        app.router.add_post("/v1/embeddings", self.embed)
        return app

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self._is_healthy() else 503)

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self._render_metrics())

    async def models(self, _: web.Request) -> web.Response:
        card = {"id": self._limits.served_name, "object": "model", "owned_by": "tandem"}
        return web.json_response({"object": "list", "data": [{**card, "max_model_len": self._limits.max_model_len}]})

    async def read_fault(self, _: web.Request) -> web.Response:
        return web.json_response(self._faults.fault.model_dump(mode="json"))

    async def set_fault(self, request: web.Request) -> web.Response:
        try:
            self._faults.fault = Fault.model_validate_json(await request.read())
        except ValidationError as error:
            return _refuse(RequestError(400, "BadRequestError", str(error)))
        return await self.read_fault(request)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, partial(read_request, is_chat=False), AnswerWriter)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, partial(read_request, is_chat=True), AnswerWriter)

    async def message(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, read_message, MessageWriter)

    async def respond(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, read_response_request, ResponseWriter)

    async def count_tokens(self, http: web.Request) -> web.StreamResponse:
        try:
            return web.json_response({"input_tokens": count_message_tokens(await http.read(), self._limits)})
        except RequestError as error:
            return _refuse(error)

    async def embed(self, http: web.Request) -> web.StreamResponse:
        try:
            return web.json_response(build_embeddings(EmbeddingBody.model_validate_json(await http.read())))
        except ValidationError as error:
            return _refuse(RequestError(400, "BadRequestError", str(error)))

    async def _answer(self, http: web.Request, read: Reader, make_writer: MakeWriter) -> web.StreamResponse:
        try:
            if broken := await self._break(http):
                return broken
            return await self._serve(http, read(await http.read(), self._limits), make_writer)
        except RequestError as error:
            return _refuse(error)
        except BrokenConnectionError:
            return _hang_up(http)

    async def _break(self, http: web.Request) -> web.Response | None:
        """Faults that need no engine."""
        fault = self._faults.strike(FaultKind.REFUSE, FaultKind.HANG, FaultKind.UNAVAILABLE, FaultKind.GARBAGE)
        if fault is None:
            return None
        if fault.kind is FaultKind.REFUSE:
            return _hang_up(http)
        if fault.kind is FaultKind.HANG:
            await asyncio.Event().wait()
        if fault.kind is FaultKind.GARBAGE:
            return web.Response(body=GARBAGE, content_type="application/json")
        return _refuse(RequestError(503, "ServiceUnavailableError", "told to be unavailable"))

    async def _serve(
        self, http: web.Request, request: CompletionRequest, make_writer: MakeWriter
    ) -> web.StreamResponse:
        prefix = "chatcmpl" if request.is_chat else "cmpl"
        request_id = f"{prefix}-{http.headers.get('x-request-id') or uuid.uuid4().hex}"
        writer = make_writer(request, request_id, self._limits.served_name, int(time.time()))
        prepared = await self._generator.prepare(request)
        if request.stream:
            return await self._stream(http, request, prepared, writer)
        words = [word async for word in self._generator.generate(request, prepared)]
        params = self._generator.hand_over(request, f"{request_id}-{uuid.uuid4().hex[:8]}")
        return web.json_response(writer.build_whole("".join(words), count_usage(request, prepared), params))

    async def _stream(
        self, http: web.Request, request: CompletionRequest, prepared: Prepared, writer: Writer
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        count = 0
        async with aclosing(self._generator.generate(request, prepared)) as words:
            async for word in words:
                count += 1
                finish = request.answer.finish_reason(count) if count == request.max_tokens else None
                event = writer.build_event(word, finish)
                if count == 1:  # like vLLM: no header before the first token, so that a failed start is a status
                    await response.prepare(http)
                    event = writer.build_opening() + event
                await response.write(event)
        await response.write(writer.build_closing(count_usage(request, prepared)))
        return response


def _refuse(error: RequestError) -> web.Response:
    return web.json_response(error.to_body(), status=error.status)


def _hang_up(http: web.Request) -> web.Response:
    if http.transport is not None:
        http.transport.abort()
    return web.Response()  # nobody will read it
