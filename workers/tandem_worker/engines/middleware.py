"""ASGI middleware that vLLM loads into its API server: bearer check, refusal while draining, requests in flight.

Pure ASGI, because a wrapped response object would buffer or re-chunk the event stream.
"""

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from tandem_api.worker import KEYS_DIR, RUN_DIR
from tandem_worker.bearer import BearerKeys
from tandem_worker.gate import (
    ERROR_HEADER,
    INFLIGHT_PATH,
    Refusal,
    decide_refusal,
    drain_file,
    is_work,
)
from tandem_worker.settings import KEYS_DIR_ENV, RUN_DIR_ENV

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MIDDLEWARE = f"{__name__}.EngineGate"


class EngineGate:
    """Wraps an ASGI application. Settings come from the environment, because vLLM passes no argument."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._keys = BearerKeys(Path(os.environ.get(KEYS_DIR_ENV) or KEYS_DIR))
        self._drain_file = drain_file(Path(os.environ.get(RUN_DIR_ENV) or RUN_DIR))
        self._inflight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if refusal := self._decide(scope):
            await _refuse(scope, send, refusal)
        elif scope["path"] == INFLIGHT_PATH:
            await _answer(send, 200, json.dumps({"inflight": self._inflight}).encode())
        else:
            await self._pass_on(scope, receive, send)

    def _decide(self, scope: Scope) -> Refusal | None:
        return decide_refusal(
            _method(scope),
            scope["path"],
            authorized=self._keys.is_authorized(_authorization(scope)),
            draining=self._drain_file.exists(),
        )

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        counted = is_work(_method(scope))
        self._inflight += counted
        try:
            await self._app(scope, receive, send)
        finally:
            self._inflight -= counted


def _method(scope: Scope) -> str:
    return str(scope.get("method", "POST"))  # a websocket has none, and is work


def _authorization(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"), None)


async def _refuse(scope: Scope, send: Send, refusal: Refusal) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1013, "reason": refusal.kind})
        return
    await _answer(send, refusal.status, refusal.to_body(), (ERROR_HEADER.encode(), refusal.kind.encode()))


async def _answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    standard = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*standard, *headers]})
    await send({"type": "http.response.body", "body": body})
