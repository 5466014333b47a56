"""Discovery from a cluster: InferenceDeployments, the fleets' Pods, and regions, watched; last good state on disk."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tandem_api import labels
from tandem_router.discovery.api_client import ApiClient
from tandem_router.discovery.last_good import read_last_good, write_last_good
from tandem_router.discovery.objects import PodRecord, build_snapshot, parse_fleet, parse_pod, parse_region
from tandem_router.discovery.reflector import Reflector
from tandem_router.snapshot import FleetSpec, RegionSpec, Snapshot

LOG = logging.getLogger(__name__)
GATHER_S = 0.02  # events that come together are published together
WRITE_INTERVAL_S = 1.0


class KubernetesDiscovery:
    """Publishes a snapshot after every change, and the restored one at the start."""

    def __init__(
        self,
        client: ApiClient,
        namespaces: Sequence[str] | None,
        state_dir: Path | None,
        publish: Callable[[Snapshot], None],
        *,
        region: str = "",
        home: str = "",
    ) -> None:
        """`namespaces` None: all of them, which needs a ClusterRole.

        Args:
            region: name of this region; empty: regions are off, and are not watched.
            home: namespace of the installation, where regions are described.
        """
        self._client = client
        self._state_dir = state_dir
        self._publish = publish
        self._pending: asyncio.TimerHandle | None = None
        self._latest: Snapshot | None = None
        self._written: Snapshot | None = None
        scopes = [""] if namespaces is None else [f"/namespaces/{namespace}" for namespace in namespaces]
        self._fleets: list[Reflector[FleetSpec]] = [
            Reflector(
                client,
                f"/apis/{labels.API_VERSION}{scope}/inferencedeployments",
                "",
                partial(parse_fleet, region=region),
                self._changed,
            )
            for scope in scopes
        ]
        self._pods: list[Reflector[PodRecord]] = [
            Reflector(client, f"/api/v1{scope}/pods", labels.FLEET, parse_pod, self._changed) for scope in scopes
        ]
        place = f"/apis/{labels.API_VERSION}/namespaces/{home}/inferenceregions"
        self._regions: Reflector[RegionSpec] | None = (
            Reflector(client, place, "", parse_region, self._changed) if region else None
        )

    async def run(self) -> None:
        """Watch until cancelled."""
        self._restore()
        reflectors: list[Reflector[Any]] = [*self._fleets, *self._pods]
        reflectors += [] if self._regions is None else [self._regions]
        try:
            async with asyncio.TaskGroup() as group:
                for reflector in reflectors:
                    group.create_task(reflector.run())
                group.create_task(self._keep_written())
        finally:
            if self._pending is not None:
                self._pending.cancel()
            self._client.close()

    def _restore(self) -> None:
        snapshot = read_last_good(self._state_dir) if self._state_dir is not None else None
        if snapshot is not None:
            LOG.info("restored %d fleets from the last good state", len(snapshot.fleets))
            self._written = snapshot
            self._publish(snapshot)

    def _changed(self) -> None:
        if self._pending is None:
            self._pending = asyncio.get_running_loop().call_later(GATHER_S, self._gather)

    def _gather(self) -> None:
        self._pending = None
        if not all(one.is_synced for one in self._fleets) or not all(one.is_synced for one in self._pods):
            return  # half a view would drop what was restored
        fleets = (fleet for reflector in self._fleets for fleet in reflector.objects.values())
        pods = (pod for reflector in self._pods for pod in reflector.objects.values())
        snapshot = build_snapshot(fleets, pods, self._known_regions())
        if snapshot != self._latest:
            self._latest = snapshot
            self._publish(snapshot)

    def _known_regions(self) -> Sequence[RegionSpec]:
        """What was restored, until regions are read: where their CRD is missing, fleets are served all the same."""
        if self._regions is None:
            return ()
        if self._regions.is_synced:
            return tuple(self._regions.objects.values())
        return self._written.regions if self._written is not None else ()

    async def _keep_written(self) -> None:
        while self._state_dir is not None:
            await asyncio.sleep(WRITE_INTERVAL_S)
            if self._latest is None or self._latest == self._written:
                continue
            try:
                write_last_good(self._state_dir, self._latest)
            except OSError as error:
                LOG.warning("last good state not written to %s: %s", self._state_dir, error)
            self._written = self._latest
