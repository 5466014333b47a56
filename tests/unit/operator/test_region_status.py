"""Reachable of an InferenceRegion: what the routers say of it, written when it differs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tandem_api.conditions import Reason, Status
from tandem_api.regions import PeerReport, RegionMatrix
from tandem_operator.cluster import Page
from tandem_operator.errors import NotFound, Unreachable
from tandem_operator.kinds import Manifest
from tandem_operator.model import Home
from tandem_operator.regions import Regions
from tandem_operator.status.regions import judge_region
from tandem_operator.store import Store


def saying(*states: str, fault: str = "") -> list[RegionMatrix]:
    """A router for each state of the peer `us`."""
    reports = (PeerReport.model_validate({"state": state, "fault": fault}) for state in states)
    return [RegionMatrix(region="eu", peers={"us": report}) for report in reports]


@pytest.mark.parametrize(
    ("name", "matrices", "status", "reason"),
    [
        ("eu", [], Status.TRUE, Reason.THIS_REGION),
        ("us", [], Status.UNKNOWN, Reason.ROUTER_UNREACHABLE),
        ("us", [RegionMatrix(region="eu")], Status.UNKNOWN, Reason.ROUTER_BEHIND),
        ("us", saying("up", "down"), Status.TRUE, Reason.CONNECTED),
        ("us", saying("up", "drained"), Status.TRUE, Reason.CONNECTED),
        ("us", saying("drained", "down"), Status.TRUE, Reason.DRAINED),
        ("us", saying("down", "unknown"), Status.FALSE, Reason.SILENT),
        ("us", saying("no_url"), Status.FALSE, Reason.NO_URL),
    ],
)
def test_a_region_is_reachable_when_any_router_hears_it(
    name: str, matrices: list[RegionMatrix], status: Status, reason: Reason
) -> None:
    verdict = judge_region(name, "eu", matrices)
    assert (verdict.status, verdict.reason) == (status, reason)


def test_what_connecting_ends_with_is_in_the_message() -> None:
    assert judge_region("us", "eu", saying("down", fault="connection refused")).message == "connection refused"


class Server:
    """An API server with one InferenceRegion, or with a fault."""

    def __init__(self, fault: Exception | None = None) -> None:
        metadata = {"name": "us", "namespace": "tandem", "uid": "u", "generation": 3}
        self.region: Manifest = {"metadata": metadata, "spec": {}}
        self.fault = fault
        self.written: list[Manifest] = []

    async def fetch_pages(self, *_: Any) -> AsyncIterator[Page]:
        if self.fault is not None:
            raise self.fault
        yield Page((json.loads(json.dumps(self.region)),), 1)

    async def apply_status(self, manifest: Manifest, manager: str) -> Manifest:
        self.written.append(manifest)
        self.region["status"] = manifest["status"]
        return manifest


async def rounds(server: Server, count: int) -> None:
    made: Any = server
    regions = Regions(made, Store(lambda key: None), Home("tandem", "eu"), lambda: True)
    async with aiohttp.ClientSession() as session:
        for _ in range(count):
            await regions.round_once(session)


async def test_a_status_is_written_once_and_not_again_while_nothing_differs() -> None:
    server = Server()
    await rounds(server, 3)
    (written,) = server.written
    (condition,) = written["status"]["conditions"]
    assert (condition["type"], condition["reason"]) == ("Reachable", "RouterUnreachable")
    assert condition["observedGeneration"] == 3
    assert written["metadata"] == {"name": "us", "namespace": "tandem", "uid": "u"}


@pytest.mark.parametrize("fault", [NotFound(404, "NotFound", ""), Unreachable(0, "Unreachable", "")])
async def test_a_cluster_that_refuses_or_lacks_the_definition_stops_nothing(fault: Exception) -> None:
    server = Server(fault)
    await rounds(server, 1)
    assert server.written == []


async def test_a_region_without_a_name_asks_nobody() -> None:
    made: Any = Server(AssertionError("asked"))
    await asyncio.wait_for(Regions(made, Store(lambda key: None), Home("tandem"), lambda: True).run(), 1.0)
