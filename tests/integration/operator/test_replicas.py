"""Two replicas and one lease; and what routers report."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web
from integration.operator.conftest import Installation, Kube, make_manifest, wait_until

from tandem_api.router import FLEETS_PATH, FleetReport, RecentTraffic, RouterReport
from tandem_core.keys import decode_key, derive_internal_token

pytestmark = pytest.mark.integration
ROUTER_ADDRESS = "127.213.7.9"


def test_a_stopped_leader_hands_over_at_once_and_a_killed_one_after_the_lease(
    installation: Installation, kube: Kube, capsys: pytest.CaptureFixture[str]
) -> None:
    with installation.replica() as first, installation.replica(wait=False) as second:
        time.sleep(4)
        assert not second.is_leading()
        exit_s = first.stop()
        assert first.process.returncode == 0
        began = time.monotonic()
        wait_until(second.is_leading, 10)
        handed_s = time.monotonic() - began
        with installation.replica(wait=False) as third:
            time.sleep(4)
            assert not third.is_leading()
            second.stop(signal.SIGKILL)
            began = time.monotonic()
            wait_until(third.is_leading, 25)
            failover_s = time.monotonic() - began
            kube.apply(make_manifest("after"))
            kube.wait_condition("after", "DecodeReady", "True", "Available")
    with capsys.disabled():
        print(f"\noperator: exit {exit_s:.1f} s, hand-over {handed_s:.1f} s, failover after kill {failover_s:.1f} s")
    assert handed_s <= 3
    assert failover_s <= 17.5


@contextmanager
def serve_reports(token: str, report: dict[str, Any]) -> Iterator[None]:
    """A router's internal listener that answers with `report` (its values may change while it serves)."""

    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {token}":
            return web.Response(status=401)
        return web.Response(text=report["value"].model_dump_json(), content_type="application/json")

    loop = asyncio.new_event_loop()
    app = web.Application()
    app.add_routes([web.get(FLEETS_PATH, answer)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, ROUTER_ADDRESS, 8443).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def apply_router_pod(installation: Installation, home: Kube) -> None:
    """A pod that stands for a router, ready at `ROUTER_ADDRESS`."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "router", "labels": {"app.kubernetes.io/component": "router"}},
        "spec": {"nodeName": "nowhere", "containers": [{"name": "router", "image": "router"}]},
    }
    home.apply(pod)
    status = {"phase": "Running", "podIP": ROUTER_ADDRESS, "podIPs": [{"ip": ROUTER_ADDRESS}]}
    status["conditions"] = [{"type": "Ready", "status": "True"}]  # type: ignore[assignment]  # a JSON object of mixed values
    home.run("patch", "pod", "router", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def test_what_routers_report_becomes_conditions(installation: Installation, kube: Kube) -> None:
    home = Kube(installation.cluster, installation.home)
    with installation.replica():
        kube.apply(make_manifest("seen"))
        kube.wait_condition("seen", "DecodeReady", "True", "Available")
        kube.wait_condition("seen", "RouterReady", "False", "RouterUnreachable")
        obj = kube.get("infd", "seen")
        fleet = FleetReport(
            namespace=kube.namespace,
            name="seen",
            uid=obj["metadata"]["uid"],
            generation=obj["metadata"]["generation"],
            served_name="tiny",
            serving=True,
        )
        router_key = decode_key(base64.b64decode(home.get("secret", "tandem-router")["data"]["router.key"]).decode())
        report = {"value": RouterReport(replica="router", synced=True, fleets=(fleet,))}
        with serve_reports(derive_internal_token(router_key), report):
            apply_router_pod(installation, home)
            kube.wait_condition("seen", "RouterReady", "True", "RouterListsGeneration", 15)
            kube.wait_condition("seen", "Ready", "True", "Available")
            assert kube.condition("seen", "KVTransferReady")["status"] == "Unknown"
            kube.run("wait", "infd/seen", "--for=condition=Ready", "--timeout=5s")
            moved = fleet.model_copy(update={"recent": RecentTraffic(kv_bytes=1 << 20, remote_prefills=3)})
            report["value"] = RouterReport(replica="router", synced=True, fleets=(moved,))
            kube.wait_condition("seen", "KVTransferReady", "True", "KVMoved", 20)
            kube.wait_condition("seen", "DisaggregationEffective", "True", "RemotePrefillSeen")
            clash = moved.model_copy(update={"name_conflict": True})
            report["value"] = RouterReport(replica="router", synced=True, fleets=(clash,))
            kube.wait_condition("seen", "RouterReady", "False", "ModelNameConflict", 20)
