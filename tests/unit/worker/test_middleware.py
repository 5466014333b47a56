"""The gate inside vLLM's API server, driven as ASGI."""

import asyncio
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from unit.worker.parts import TOKEN

from tandem_worker.engines.middleware import MIDDLEWARE, EngineGate

Message = MutableMapping[str, Any]


class Exchange:
    """One request to the gate; `released` lets the application behind it go on."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.entered, self.released = asyncio.Event(), asyncio.Event()

    async def app(self, scope: Message, receive: Any, send: Any) -> None:
        self.entered.set()
        await self.released.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"token"})

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def ask(self, gate: EngineGate, method: str, path: str, token: str | None = TOKEN) -> int:
        headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
        self.sent.clear()
        await gate({"type": "http", "method": method, "path": path, "headers": headers}, None, self.send)  # type: ignore[arg-type] # nothing receives
        return int(self.sent[0]["status"])

    @property
    def body(self) -> Any:
        return json.loads(self.sent[1]["body"])


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


@pytest.fixture
def gate(exchange: Exchange, keys_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineGate:
    monkeypatch.setenv("TANDEM_KEYS_DIR", str(keys_dir))
    monkeypatch.setenv("TANDEM_RUN_DIR", str(tmp_path))
    return EngineGate(exchange.app)


async def test_only_health_is_open(gate: EngineGate, exchange: Exchange) -> None:
    exchange.released.set()
    assert await exchange.ask(gate, "GET", "/health", token=None) == 200
    for path in ("/v1/completions", "/metrics", "/v1/models", "/tandem/v1/inflight", "/healthz"):
        assert await exchange.ask(gate, "GET", path, token=None) == 401
        assert exchange.body["error"]["type"] == "unauthorized"


async def test_a_drain_refuses_work_and_still_answers_questions(
    gate: EngineGate, exchange: Exchange, tmp_path: Path
) -> None:
    exchange.released.set()
    assert await exchange.ask(gate, "POST", "/v1/completions") == 200
    (tmp_path / "draining").touch()
    assert await exchange.ask(gate, "POST", "/v1/completions") == 503
    assert (b"x-tandem-error", b"draining") in exchange.sent[0]["headers"]
    assert exchange.body["error"]["type"] == "draining"
    assert await exchange.ask(gate, "GET", "/metrics") == 200


async def test_requests_are_in_flight_until_their_last_byte(gate: EngineGate, exchange: Exchange) -> None:
    request = asyncio.create_task(exchange.ask(gate, "POST", "/v1/completions"))
    await exchange.entered.wait()
    other = Exchange()
    await other.ask(gate, "GET", "/tandem/v1/inflight")
    assert other.body == {"inflight": 1}
    exchange.released.set()
    await request
    await other.ask(gate, "GET", "/tandem/v1/inflight")
    assert other.body == {"inflight": 0}


async def test_a_request_that_is_aborted_is_no_longer_in_flight(gate: EngineGate, exchange: Exchange) -> None:
    request = asyncio.create_task(exchange.ask(gate, "POST", "/v1/completions"))
    await exchange.entered.wait()
    request.cancel()
    await asyncio.wait([request])
    other = Exchange()
    await other.ask(gate, "GET", "/tandem/v1/inflight")
    assert other.body == {"inflight": 0}


async def test_a_websocket_without_the_key_is_closed(gate: EngineGate, exchange: Exchange) -> None:
    scope: Message = {"type": "websocket", "path": "/v1/realtime", "headers": []}
    await gate(scope, None, exchange.send)  # type: ignore[arg-type] # nothing receives
    assert exchange.sent[0]["type"] == "websocket.close"


def test_vllm_is_given_the_name_of_this_class() -> None:
    assert MIDDLEWARE == "tandem_worker.engines.middleware.EngineGate"
