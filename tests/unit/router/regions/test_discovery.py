"""Regions as the API server tells them: a CRD that is missing, an object that is wrong, and the last good state."""

import asyncio
from contextlib import asynccontextmanager

from tandem_router.discovery.api_client import ApiRefusedError
from tandem_router.discovery.kubernetes import KubernetesDiscovery
from tandem_router.discovery.last_good import read_last_good, write_last_good
from tandem_router.discovery.objects import parse_fleet, parse_region
from tandem_router.snapshot import RegionSpec, Snapshot

EU = {
    "metadata": {"name": "eu", "namespace": "tandem", "uid": "r-eu"},
    "spec": {"url": "https://eu.example:8443", "labels": {"jurisdiction": "eu"}, "priceWeight": 2.0, "drain": True},
}


class Api:
    """Answers lists by path; a path that it does not know is 404, and watches never tell anything."""

    def __init__(self, **lists):
        self.lists = lists

    async def get(self, target):
        kind = target.partition("?")[0].rpartition("/")[2]
        if kind not in self.lists:
            raise ApiRefusedError(404, "the server could not find the requested resource")
        return {"metadata": {"resourceVersion": "1"}, "items": self.lists[kind]}

    async def follow(self, target, silence_s):
        await asyncio.sleep(3600)
        yield

    def close(self):
        pass


@asynccontextmanager
async def discovering(api, state_dir=None, region="us"):
    published = []
    discovery = KubernetesDiscovery(api, None, state_dir, published.append, region=region, home="tandem")
    task = asyncio.create_task(discovery.run())
    try:
        async with asyncio.timeout(10):
            while not published:  # noqa: ASYNC110 - published by the task
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        yield published
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_regions_come_with_the_fleets():
    async with discovering(Api(inferencedeployments=[], pods=[], inferenceregions=[EU])) as published:
        assert published[-1].regions == (
            RegionSpec("eu", "https://eu.example:8443", (("jurisdiction", "eu"),), 2.0, True),
        )


async def test_a_missing_crd_holds_no_fleet_back_and_restored_regions_stay(tmp_path):
    known = Snapshot((), (RegionSpec("eu", "http://eu:8443", (("a", "b"),)),))
    write_last_good(tmp_path, known)
    assert read_last_good(tmp_path) == known
    async with discovering(Api(inferencedeployments=[], pods=[]), tmp_path) as published:
        assert [one.regions for one in published] == [known.regions] * len(published)
        assert len(published) >= 2, "restored, and then read without regions"


async def test_without_a_region_of_its_own_a_router_asks_for_none():
    async with discovering(Api(inferencedeployments=[], pods=[], inferenceregions=[EU]), region="") as published:
        assert published[-1].regions == ()


def test_an_object_of_another_schema_is_left_out():
    assert parse_region({**EU, "spec": {"url": 7}}) is None
    assert parse_region(EU) is not None


def test_a_fleet_knows_whether_it_is_served_here_and_what_its_operator_says():
    fleet = {
        "metadata": {"name": "chat", "namespace": "a", "uid": "u"},
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "spec": {
            "model": {"name": "m", "source": "synthetic://tiny-llama"},
            "engine": {"type": "sim"},
            "decode": {"replicas": 1},
            "regions": [{"name": "eu"}],
        },
        "status": {"regionDemand": {"uncoverable": {"prefillTokensPerSecond": 5.0}}},
    }
    assert [parse_fleet(fleet, name).is_elsewhere for name in ("us", "eu", "")] == [True, False, False]
    assert parse_fleet(fleet, "us").uncoverable == {"prefillTokensPerSecond": 5.0}
    assert parse_fleet(fleet, "us").room is None
