"""The gate of `tandem_worker.gate` for aiohttp, as `engines.middleware` is for ASGI."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from tandem_worker.bearer import BearerKeys
from tandem_worker.gate import ERROR_HEADER, INFLIGHT_PATH, decide_refusal, drain_file, is_work

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpGate:
    """Middleware: bearer check, refusal while draining, requests in flight."""

    __middleware_version__ = 1  # what the decorator web.middleware sets, which takes no objects

    def __init__(self, keys: BearerKeys, run_dir: Path) -> None:
        self._keys = keys
        self._drain_file = drain_file(run_dir)
        self._inflight = 0

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        authorized = self._keys.is_authorized(request.headers.get("authorization"))
        draining = os.path.exists(self._drain_file)  # noqa: ASYNC240 - one stat in memory
        if refusal := decide_refusal(request.method, request.path, authorized=authorized, draining=draining):
            body, headers = refusal.to_body(), {ERROR_HEADER: refusal.kind}
            return web.Response(status=refusal.status, body=body, content_type="application/json", headers=headers)
        if request.path == INFLIGHT_PATH:
            return web.json_response({"inflight": self._inflight})
        return await self._count(request, handler)

    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        counted = is_work(request.method)
        self._inflight += counted
        try:
            return await handler(request)
        finally:
            self._inflight -= counted
