"""Probe and hook actions: every outcome is a result with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from cluster.process_node.checks import CheckTarget, build_probe_session, build_url, named_ports, perform
from cluster.process_node.objects import JsonObject
from cluster.process_node.processes import Launch


@pytest.fixture
async def target() -> AsyncIterator[CheckTarget]:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/slow":
            await asyncio.sleep(10)
        status = int(request.query.get("status", "200"))
        return web.Response(status=status, text=request.headers.get("X-Probe", "no header"))

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with build_probe_session() as session:
        yield CheckTarget(
            "127.0.0.1",
            {"http": runner.addresses[0][1]},
            session,
            lambda command: Launch(["/bin/sh", "-c", *command], {"PATH": "/usr/bin:/bin"}, Path("/")),
        )
    await runner.cleanup()


@pytest.mark.parametrize(
    "action",
    [
        {"httpGet": {"port": "http"}},
        {"httpGet": {"port": "http", "path": "/?status=302"}},
        {"tcpSocket": {"port": "http"}},
        {"exec": {"command": ["true"]}},
        {"sleep": {"seconds": 0}},
    ],
)
async def test_what_succeeds(target: CheckTarget, action: JsonObject) -> None:
    assert (await perform(action, target, 5)).ok


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"httpGet": {"port": "http", "path": "/?status=503"}}, "statuscode: 503 no header"),
        ({"httpGet": {"port": 1}}, "Cannot connect"),
        ({"httpGet": {"port": "none"}}, "no containerPort is named 'none'"),
        ({"httpGet": {"port": "http", "scheme": "HTTPS"}}, ""),
        ({"httpGet": {"port": "http", "path": "/slow"}}, "timed out after 0.3 s"),
        ({"tcpSocket": {"port": 1}}, "Connect call failed"),
        ({"exec": {"command": ["echo why; exit 3"]}}, "command exited with 3: why"),
        ({"exec": {"command": ["sleep 10"]}}, "timed out after 0.3 s"),
        ({"grpc": {"port": 1}}, "only exec, httpGet, tcpSocket and sleep"),
    ],
)
async def test_what_fails_says_why(target: CheckTarget, action: JsonObject, message: str) -> None:
    result = await perform(action, target, 0.3)
    assert not result.ok
    assert message in result.message


async def test_headers_are_sent(target: CheckTarget) -> None:
    headers = [{"name": "X-Probe", "value": "seen"}]
    result = await perform({"httpGet": {"port": "http", "path": "/?status=500", "httpHeaders": headers}}, target, 5)
    assert result.message.endswith("500 seen")


async def test_urls_are_made_as_kubelets_do(target: CheckTarget) -> None:
    assert build_url({"port": 80, "path": "healthz", "host": "h", "scheme": "HTTPS"}, target) == "https://h:80/healthz"
    assert build_url({"port": 80}, target) == "http://127.0.0.1:80/"


def test_only_ports_with_a_name_can_be_named() -> None:
    assert named_ports({"ports": [{"name": "http", "containerPort": 8000}, {"containerPort": 1}]}) == {"http": 8000}
