"""The kubelet's own HTTPS server, as far as the API server needs it: logs."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from cluster.process_node.container import Container
from cluster.process_node.logs import LogQueryError, parse_options, read_log
from cluster.process_node.pod import PodWorker
from cluster.process_node.registry import PodRegistry
from cluster.process_node.services import HOST_IP
from cluster.process_node.states import Waiting

_OUT_OF_SCOPE = (
    "{0} is out of scope of the process node: its pods are processes of this machine, so use a shell here "
    "(kubectl get pod -o wide shows the pod's loopback address)"
)


def build_tls_context(ca: Path, cert: Path, key: Path) -> ssl.SSLContext:
    """Client certificates are verified against the cluster's CA when given. Raises ssl.SSLError, OSError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
    context.load_cert_chain(cert, key)
    context.verify_mode = ssl.CERT_OPTIONAL  # /healthz is open; `_authenticate` guards the rest
    return context


def build_app(pods: PodRegistry) -> web.Application:
    server = LogServer(pods)
    app = web.Application(middlewares=[_authenticate])
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", server.logs)
    for action in ("exec", "attach", "portForward"):
        app.router.add_route("*", f"/{action}/{{rest:.*}}", _refuse)
    return app


class ServerHandle:
    """A started server; `port` is the one that was bound."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner

    @property
    def port(self) -> int:
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        await self._runner.cleanup()


async def start_server(pods: PodRegistry, tls: ssl.SSLContext, port: int) -> ServerHandle:
    """Raises OSError when the port is taken."""
    runner = web.AppRunner(build_app(pods), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, HOST_IP, port, ssl_context=tls).start()
    return ServerHandle(runner)


class LogServer:
    def __init__(self, pods: PodRegistry) -> None:
        self._pods = pods

    async def logs(self, request: web.Request) -> web.StreamResponse:
        worker, container = self._find(request)
        run = choose_run(worker, container, previous=request.query.get("previous") == "true")
        try:
            options = parse_options(request.query, datetime.now(UTC))
        except LogQueryError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        lines = read_log(
            worker.folders.log(container.name, run),
            options,
            lambda: container.current_run == run and not _has_left(request),
        )
        return await _send(request, lines)

    def _find(self, request: web.Request) -> tuple[PodWorker, Container]:
        match = request.match_info
        worker = self._pods.find(match["namespace"], match["pod"])
        if worker is None:
            raise web.HTTPNotFound(text=f'pod "{match["pod"]}" in "{match["namespace"]}" is not on this node')
        container = worker.find_container(match["container"])
        if container is None:
            raise web.HTTPNotFound(text=f'container "{match["container"]}" not found in pod "{match["pod"]}"')
        return worker, container


async def _send(request: web.Request, lines: AsyncIterator[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionResetError):  # the reader went away: nobody is left to tell
        async for text in lines:
            await response.write(text)
    return response


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def choose_run(worker: PodWorker, container: Container, *, previous: bool) -> int:
    """The run whose log is asked for: the present or last one, or the one before."""
    runs = worker.folders.runs(container.name)
    if previous:
        if len(runs) < 2:
            raise web.HTTPBadRequest(text=f'previous terminated container "{container.name}" not found')
        return runs[-2]
    if not runs:
        state = container.snapshot.state
        reason = state.reason if isinstance(state, Waiting) else "it never started"
        raise web.HTTPBadRequest(text=f'container "{container.name}" is waiting to start: {reason}')
    return runs[-1]


@web.middleware
async def _authenticate(request: web.Request, handler: object) -> web.StreamResponse:
    assert callable(handler)
    transport = request.transport
    if request.path != "/healthz" and not (transport and transport.get_extra_info("peercert")):
        raise web.HTTPUnauthorized(text="a client certificate of the cluster's CA is needed")
    response: web.StreamResponse = await handler(request)
    return response


async def _healthz(_request: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _refuse(request: web.Request) -> web.Response:
    action = request.path.split("/")[1]
    raise web.HTTPNotImplemented(text=_OUT_OF_SCOPE.format(action))
