"""The admin port: probes, state, metrics, and the release of leases. Everything but the release is open to read."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tandem_api.worker import WorkerState
from tandem_worker.bearer import BearerKeys
from tandem_worker.gate import ERROR_HEADER, UNAUTHORIZED, Refusal
from tandem_worker.kv.local import LocalError
from tandem_worker.kv_ranks import KVRanks
from tandem_worker.metrics import render_metrics
from tandem_worker.vital_signs import Signs

STATE_PATH = "/tandem/v1/state"
RELEASE_PATH = "/tandem/v1/leases:release"
MAX_BODY_BYTES = 1 << 20
MIN_REQUEST_ID_CHARACTERS = 8  # the id is searched for inside the engine's own; a short one would match strangers

Observe = Callable[[], Awaitable[tuple[WorkerState, Signs]]]
Check = Callable[[], str | None]


class Admin:
    """HTTP handlers.

    Args:
        observe: the worker's state and what it was made from.
        find_fault: why the pod should be restarted, or None.
    """

    def __init__(self, observe: Observe, find_fault: Check, ranks: KVRanks, keys: BearerKeys) -> None:
        self._observe = observe
        self._find_fault = find_fault
        self._ranks = ranks
        self._keys = keys

    def build_app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/livez", self.livez)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get(STATE_PATH, self.state)
        app.router.add_post(RELEASE_PATH, self.release)
        return app

    async def livez(self, _: web.Request) -> web.Response:
        fault = self._find_fault()
        return _plain(503, fault) if fault else _plain(200, "ok")

    async def readyz(self, _: web.Request) -> web.Response:
        state, signs = await self._observe()
        return _plain(200, "ok") if state.ready else _plain(503, _explain_unready(state, signs))

    async def state(self, request: web.Request) -> web.Response:
        state, _ = await self._observe()
        if remote_request_id := request.query.get("load"):
            try:
                state = state.model_copy(update={"load": await self._ranks.fetch_load(remote_request_id)})
            except LocalError as error:
                return _refuse(Refusal(503, "kv_unavailable", str(error)))
        return web.Response(text=state.model_dump_json(), content_type="application/json")

    async def metrics(self, _: web.Request) -> web.Response:
        """Ours, then the engine's: one scrape target per pod, and none that needs the fleet's key."""
        state, signs = await self._observe()
        text = render_metrics(state, signs.kv) + signs.metrics.encode()
        return web.Response(body=text, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    async def release(self, request: web.Request) -> web.Response:
        if not self._keys.is_authorized(request.headers.get("authorization")):
            return _refuse(UNAUTHORIZED)
        try:
            released = await self._release(_read_release(await request.read()))
        except ValueError as error:
            return _refuse(Refusal(400, "invalid_request_error", str(error)))
        except LocalError as error:
            return _refuse(Refusal(503, "kv_unavailable", str(error)))
        return web.json_response({"released": released})

    async def _release(self, target: str | dict[str, Any]) -> int:
        if isinstance(target, str):
            return await self._ranks.apply_release(target)
        return await self._ranks.apply_release_params(target)


def _read_release(body: bytes) -> str | dict[str, Any]:
    """The request id, or the signed parameters, whose leases shall end. Raises ValueError."""
    content = json.loads(body or b"null")  # JSONDecodeError is a ValueError
    if not isinstance(content, dict) or len(content.keys() & {"request_id", "kv_transfer_params"}) != 1:
        raise ValueError("the body must be a JSON object with either request_id or kv_transfer_params")
    if isinstance(params := content.get("kv_transfer_params"), dict):
        return params
    request_id = content.get("request_id")
    if not isinstance(request_id, str) or len(request_id) < MIN_REQUEST_ID_CHARACTERS:
        raise ValueError(
            f"request_id must be a string of at least {MIN_REQUEST_ID_CHARACTERS} characters, "
            "kv_transfer_params an object"
        )
    return request_id


def _explain_unready(state: WorkerState, signs: Signs) -> str:
    if state.draining:
        return "draining"
    return "the KV connector does not answer yet" if signs.healthy else "the engine is not healthy yet"


def _plain(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")


def _refuse(refusal: Refusal) -> web.Response:
    return web.Response(
        status=refusal.status,
        body=refusal.to_body(),
        content_type="application/json",
        headers={ERROR_HEADER: refusal.kind},
    )
