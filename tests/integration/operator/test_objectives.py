"""Mode Objectives on a real API server, with the chart's rights: demand of a router becomes a scale and an Event."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from aiohttp import web
from integration.operator.conftest import Installation, Kube, make_manifest, wait_until
from unit.operator.demand_routers import DemandRouter, address_of

from tandem_api import labels
from tandem_api.router import DEMAND_PATH, FLEETS_PATH, DemandAnswer, RegionFleetWord, RegionWord, RouterReport
from tandem_api.v1alpha1 import RegionLoad

pytestmark = pytest.mark.integration

SCALED = {
    "engine": {"type": "sim", "performanceProfile": "70b-h100-tp4"},
    "prefill": {"max": 12},
    "decode": {"max": 6},
    "objectives": {"ttft": {"percentile": "p99", "seconds": 2}, "tpot": {"percentile": "p99", "seconds": 0.05}},
    "autoscaling": {"mode": "Objectives"},
}
NEED = RegionLoad(requests_per_second=2, prefill_tokens_per_second=3000, decode_sequences=600, decode_kv_tokens=600_000)


@contextmanager
def serving(router: DemandRouter, address: str) -> Iterator[None]:
    """The router on its port, in a thread of its own."""
    loop, started = asyncio.new_event_loop(), threading.Event()

    async def report(request: web.Request) -> web.Response:
        return web.Response(text=RouterReport(replica="r", synced=True).model_dump_json())

    async def serve() -> None:
        app = web.Application()
        app.add_routes([web.get(DEMAND_PATH, router.answer), web.get(FLEETS_PATH, report)])
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, address, labels.ROUTER_INTERNAL_PORT).start()
        started.set()

    def run() -> None:
        loop.create_task(serve())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    yield
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def put_router_pod(installation: Installation, address: str) -> None:
    """A ready router pod, as far as anybody asks: no node runs it."""
    cluster = installation.cluster
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "router", "labels": {labels.COMPONENT: labels.ROUTER_COMPONENT}},
        "spec": {"containers": [{"name": "router", "image": "none"}], "nodeSelector": {"tandem.dev/nowhere": "true"}},
    }
    cluster.kubectl("apply", "-n", installation.home, "-f", "-", stdin=yaml.safe_dump(pod))
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [ready]}}
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps(status))
    cluster.kubectl("patch", "pod", "router", "-n", installation.home, *patch)


def test_what_routers_are_asked_for_becomes_a_scale_with_an_event(installation: Installation, kube: Kube) -> None:
    address = address_of("z")
    kube.apply(make_manifest("asked", **SCALED))
    uid = kube.get("infd", "asked")["metadata"]["uid"]

    def as_this_fleet(answer: DemandAnswer) -> str:
        fleets = tuple(
            one.model_copy(update={"uid": uid, "name": "asked", "namespace": kube.namespace}) for one in answer.fleets
        )
        needy = RegionWord(fresh=True, fleets={f"{kube.namespace}/asked": RegionFleetWord(uncoverable=NEED)})
        regions = {"us": needy, "eu": RegionWord(fresh=True)}
        return answer.model_copy(update={"fleets": fleets, "regions": regions}).model_dump_json(by_alias=True)

    router = DemandRouter(time.time, rate_rps=8, started_s=int(time.time()) - 120, change=as_this_fleet)
    put_router_pod(installation, address)
    with serving(router, address), installation.replica("--region", "eu"):
        wait_until(lambda: replicas(kube, "prefill") >= 4, 40, lambda: str(kube.get("infd", "asked").get("status")))
        condition = kube.wait_condition("asked", "AutoscalerActive", "True", "Deciding", 20)
        assert "prefill" in condition["message"]
        decision = kube.get("infd", "asked")["status"]["lastDecision"]
        assert decision["inputs"]["routersHeard"] == 1
        assert decision["prefill"]["terms"]["workRate"] > 3
        assert kube.get("infd", "asked")["status"]["regionDemand"]["room"]["decodeSequences"] > 100
        wait_until(lambda: "helped" in kube.get("infd", "asked")["status"]["lastDecision"]["decode"]["terms"], 80)
        wait_until(lambda: any(e["reason"] == "ScaledUp" for e in kube.list("events")), 20)
        kube.run("scale", "wpool/asked-prefill", "--replicas=1")
        wait_until(lambda: replicas(kube, "prefill") >= 4, 20)  # whoever scales by hand is put right
        assert managers(kube, "prefill") >= {"tandem-scale"}


def replicas(kube: Kube, role: str) -> int:
    found: list[dict[str, Any]] = [p for p in kube.list("wpool") if p["metadata"]["name"] == f"asked-{role}"]
    return int(found[0]["spec"]["replicas"]) if found else 0


def managers(kube: Kube, role: str) -> set[str]:
    text = kube.run("get", "wpool", f"asked-{role}", "--show-managed-fields", "-o", "json")
    return {entry["manager"] for entry in json.loads(text)["metadata"]["managedFields"]}
