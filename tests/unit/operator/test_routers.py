"""Asking routers over real sockets on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from unit.operator.test_store import recorded

from tandem_api import labels
from tandem_api.router import FLEETS_PATH, FleetReport, RouterReport
from tandem_core.keys import RootKeys, derive_internal_token, derive_router_key
from tandem_operator.kinds import POD, Manifest
from tandem_operator.model import Key
from tandem_operator.routers import Routers, is_router

ROOT = bytes(32)
ADDRESS = "127.214.3.1"


def make_router(name: str = "r", *, ready: bool = True, namespace: str = "home") -> Manifest:
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": name,
            "resourceVersion": "1",
            "labels": {labels.COMPONENT: labels.ROUTER_COMPONENT},
        },
        "status": {"podIP": ADDRESS, "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def make_report(**changes: object) -> RouterReport:
    fleet = FleetReport(namespace="team", name="llama", uid="u", generation=1, served_name="m", serving=True)
    return RouterReport(replica="r", synced=True, fleets=(fleet.model_copy(update=changes),))


@pytest.fixture
async def answers() -> AsyncIterator[list[web.Response | RouterReport]]:
    """What the router at `ADDRESS` answers; the last entry stays."""
    queue: list[web.Response | RouterReport] = [make_report()]
    token = derive_internal_token(derive_router_key(ROOT))

    async def serve(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != f"Bearer {token}":
            return web.Response(status=401)
        entry = queue.pop(0) if len(queue) > 1 else queue[0]
        return entry if isinstance(entry, web.Response) else web.Response(text=entry.model_dump_json())

    app = web.Application()
    app.add_routes([web.get(FLEETS_PATH, serve)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, ADDRESS, labels.ROUTER_INTERNAL_PORT).start()
    yield queue
    await runner.cleanup()


async def poll_for(routers: Routers, seconds: float, roots: RootKeys | None = None) -> None:
    routers.use(roots or RootKeys(ROOT))
    polling = asyncio.create_task(routers.run())
    await asyncio.sleep(seconds)
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)


async def test_a_report_is_kept_and_its_fleet_looked_at(answers: list[web.Response | RouterReport]) -> None:
    store, _ = recorded()
    store.upsert(POD, make_router())
    changed: list[Key] = []
    routers = Routers(store, "home", changed.append, lambda: True)
    await poll_for(routers, 0.3)
    view = routers.view("u")
    assert (view.pods, view.answering, [r.generation for r in view.reports]) == (1, 1, [1])
    assert routers.view("other").reports == ()


@pytest.mark.parametrize(
    ("roots", "answering"),
    [(RootKeys(b"n" * 32, ROOT), 1), (RootKeys(ROOT, b"n" * 32), 1), (RootKeys(b"n" * 32), 0)],
)
async def test_a_router_that_knows_only_the_other_key_is_asked_with_it(
    answers: list[web.Response | RouterReport], roots: RootKeys, answering: int
) -> None:
    store, _ = recorded()
    store.upsert(POD, make_router())
    routers = Routers(store, "home", lambda _: None, lambda: True)
    await poll_for(routers, 0.3, roots)
    assert routers.view("u").answering == answering


@pytest.mark.parametrize("answer", [web.Response(status=500), web.Response(text="{"), web.Response(text="[]")])
async def test_an_answer_that_makes_no_sense_is_no_answer(
    answers: list[web.Response | RouterReport], answer: web.Response
) -> None:
    answers[:] = [answer, make_report()]
    store, _ = recorded()
    store.upsert(POD, make_router())
    routers = Routers(store, "home", lambda key: None, lambda: True)
    await poll_for(routers, 0.3)
    assert (routers.view("u").pods, routers.view("u").answering) == (1, 0)


async def test_a_router_that_is_away_holds_up_nothing() -> None:
    store, _ = recorded()
    store.upsert(POD, make_router())
    routers = Routers(store, "home", lambda key: None, lambda: True)
    await poll_for(routers, 0.3)
    assert (routers.view("u").pods, routers.view("u").answering) == (1, 0)


@pytest.mark.parametrize(
    ("pod", "want"),
    [
        (make_router(), True),
        (make_router(ready=False), False),
        (make_router(namespace="other"), False),
        ({**make_router(), "status": {"conditions": [{"type": "Ready", "status": "True"}]}}, False),
    ],
)
def test_only_ready_routers_of_this_installation_are_asked(pod: Manifest, want: bool) -> None:
    assert is_router(pod, "home") is want
