"""One manifest in every cluster: each runs its slice, and a region that runs none sends its requests on."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import yaml

from cluster.api import Cluster
from demo.installation import EXAMPLES
from demo.milestones import condition_of
from regions.ledger import Ended
from regions.load import Load
from regions.setup import NAMESPACE
from regions.world import FLEET, Region, World, wait_until_ready
from tandem_api import labels
from tandem_cli.app import main

HOME = "eu"
LOCAL = "local"
PATIENCE_S = 45.0
REACHABLE = '{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Reachable")].status} {end}'


async def find_faults_of_slices(world: World) -> AsyncIterator[str]:
    """What is wrong. The lines between the regions must be open."""
    for fault in await asyncio.to_thread(lambda: list(_find_wrong_sizes(world))):
        yield fault
    for region in world.regions.values():
        await asyncio.to_thread(region.objects.apply_manifest, build_local())
    for region in world.regions.values():
        found = await asyncio.to_thread(wait_until_ready, region, LOCAL)
        reason = condition_of(found, "Ready")["reason"]
        wanted = "Available" if region.name == HOME else "NotInThisRegion"
        if reason != wanted:
            yield f"{region.name}: {LOCAL} is Ready/{reason}, not {wanted}"
    await asyncio.to_thread(world.look)
    for name in world.regions:
        ended = await ask_once(world, name)
        if (ended.outcome, ended.region or HOME) != ("ok", HOME):
            yield f"{LOCAL}, asked in {name}: {ended}"
    for region in world.regions.values():
        await asyncio.to_thread(region.objects.delete_fleet, LOCAL)
        if not await asyncio.to_thread(_are_all_reachable, region.cluster):
            yield f"{region.name}: not every InferenceRegion is Reachable"
        if await asyncio.to_thread(_show_regions, region):
            yield f"tandem regions, asked in {region.name}: a peer cannot be used"


def _show_regions(region: Region) -> int:
    """`tandem regions`, as a person would call it; its exit code."""
    router = f"http://{region.router}:{labels.ROUTER_INTERNAL_PORT}"
    return main(["regions", "--router", router, "-n", NAMESPACE, "--kubeconfig", str(region.cluster.kubeconfig)])


def _find_wrong_sizes(world: World) -> Iterator[str]:
    slices = {one["name"]: one for one in _read_example()["spec"]["regions"]}
    for region in world.regions.values():
        wanted = slices[region.name].get("decode", {}).get("replicas", 1)
        pods = region.objects.fetch_pods(f"{labels.FLEET}={FLEET},{labels.ROLE}=decode")
        if len(pods) != wanted:
            yield f"{region.name}: {len(pods)} decode workers, and its slice has {wanted}"


def build_local() -> dict[str, Any]:
    """A fleet that only `HOME` runs."""
    manifest = copy.deepcopy(_read_example())
    manifest["metadata"]["name"] = LOCAL
    manifest["spec"]["model"]["servedName"] = LOCAL
    manifest["spec"]["regions"] = [{"name": HOME}]
    return dict(manifest)


async def ask_once(world: World, entry: str) -> Ended:
    """One request of a tenant that may be served anywhere, once a router knows who serves it."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        load = Load(world, {}, model=LOCAL)
        ended = await load.ask_once(entry, "anywhere")
        if ended.outcome == "ok" or time.monotonic() > deadline:
            return ended
        await asyncio.sleep(0.5)


def _are_all_reachable(cluster: Cluster) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        said = cluster.kubectl("get", "infreg", "-n", NAMESPACE, "-o", f"jsonpath={REACHABLE}").split()
        if said and all(one.endswith("=True") for one in said):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)


def _read_example() -> dict[str, Any]:
    return dict(yaml.safe_load((EXAMPLES / "regions" / "chat.yaml").read_text()))
