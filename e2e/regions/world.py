"""Three regions: a control plane, an operator and a router each, engines of type sim, and lines between all of them."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import urllib3
from kubernetes.client.exceptions import ApiException

from cluster.api import Cluster, down_abandoned, ephemeral_cluster
from cluster.processes import fetch_marked, stop
from cluster.spec import ClusterSpec
from demo.installation import build_image_table
from demo.milestones import is_ready
from demo.objects import Objects
from regions.line import Address
from regions.setup import NAMESPACE, install_regions
from regions.switchboard import Switchboard
from tandem_api import labels
from tandem_api.regions import REGIONS_PATH, RegionMatrix
from tandem_cli.router_access import fetch_token

NAMES = ("eu", "us", "ap")
FLEET = "chat"
READY_S = 120.0
POLL_S = 0.25


@dataclass
class Region:
    """One region.

    Attributes:
        router: address of its router pod; None while there is none.
    """

    name: str
    cluster: Cluster
    objects: Objects
    token: str = ""
    router: str | None = None
    is_dead: bool = False
    workers: set[str] = field(default_factory=set)

    @property
    def entry(self) -> str:
        """Where its clients ask."""
        return f"http://{self.router or '127.255.255.254'}:{labels.ROUTER_HTTP_PORT}"

    def internal(self) -> Address | None:
        """The internal listener of its router."""
        return (self.router, labels.ROUTER_INTERNAL_PORT) if self.router else None

    def look(self) -> None:
        """Find the router, and all workers that there ever were."""
        routers = self.objects.fetch_pods(f"{labels.COMPONENT}={labels.ROUTER_COMPONENT}")
        ready = [pod for pod in routers if pod.status.pod_ip and _is_ready(pod)]
        self.router = ready[0].status.pod_ip if ready else None
        self.workers |= {pod.metadata.name for pod in self.objects.fetch_all_pods(labels.FLEET)}

    def patch_region(self, name: str, **spec: object) -> None:
        """Merge into the spec of an InferenceRegion of this cluster."""
        patch = json.dumps({"spec": spec})
        self.cluster.kubectl("patch", "infreg", name, "-n", NAMESPACE, "--type=merge", "-p", patch)

    def kill(self) -> None:
        """End every process of the region at once, its control plane included, as when its power fails."""
        self.is_dead = True
        stop(fetch_marked(self.cluster.run), grace_s=0)

    async def fetch_matrix(self, client: httpx.AsyncClient) -> RegionMatrix:
        """What its router says of the others."""
        url = f"http://{self.router}:{labels.ROUTER_INTERNAL_PORT}{REGIONS_PATH}"
        answer = await client.get(url, headers={"Authorization": f"Bearer {self.token}"})
        return RegionMatrix.model_validate_json(answer.raise_for_status().content)


@dataclass
class World:
    """All regions, and the lines between them."""

    regions: Mapping[str, Region]
    lines: Switchboard

    def region_of(self, worker: str) -> str | None:
        """The region whose worker it is, or was."""
        return next((region.name for region in self.regions.values() if worker in region.workers), None)

    def look(self) -> None:
        """Look at every region that lives, and let the lines lead to its router."""
        for region in self.regions.values():
            if region.is_dead:
                continue
            with contextlib.suppress(ApiException, urllib3.exceptions.HTTPError):  # busy, or just killed: look again
                region.look()
                self.lines.lead(region.name, region.internal())

    def join(self) -> None:
        """Tell every region where its peers seem to be: at the other end of a line."""
        for (source, target), url in self.lines.urls.items():
            self.regions[source].patch_region(target, url=url)


@contextmanager
def three_regions(folder: Path) -> Iterator[World]:
    """Clusters with everything in them, by the commands of docs/regions.md; all of it is gone afterwards."""
    down_abandoned()
    images = dict(build_image_table(None))
    with ExitStack() as stack:
        clusters = {
            name: stack.enter_context(
                ephemeral_cluster(ClusterSpec(name=f"region-{name}-{os.getpid()}", process_nodes=1, images=images))
            )
            for name in NAMES
        }
        install_regions(clusters, folder)
        regions = {name: Region(name, one, Objects(one.kubeconfig, NAMESPACE)) for name, one in clusters.items()}
        for region in regions.values():
            wait_until_ready(region, FLEET)
            region.token = fetch_token(str(region.cluster.kubeconfig), NAMESPACE)
        lines = Switchboard(NAMES)
        stack.callback(lines.close)
        world = World(regions, lines)
        world.look()
        world.join()
        yield world


def wait_until_ready(region: Region, fleet: str) -> dict[str, Any]:
    """Until a fleet is Ready in a region; the object."""
    deadline = time.monotonic() + READY_S
    while not is_ready(found := region.objects.fetch_fleet(fleet)):
        said = found.get("status", {}).get("conditions", [])
        if time.monotonic() > deadline:
            raise TimeoutError(f"{region.name}: {fleet} is not Ready: {[(c['type'], c['message']) for c in said]}")
        time.sleep(POLL_S)
    return found


def _is_ready(pod: Any) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or [])
