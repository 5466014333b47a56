"""Writes what this region's routers hear of the others into the status of the InferenceRegions. On the leader only."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

import aiohttp
from pydantic import ValidationError

from tandem_api.conditions import RegionConditionType
from tandem_api.regions import REGIONS_PATH, RegionMatrix
from tandem_api.v1alpha1 import InferenceRegionStatus
from tandem_core.keys import RootKeys
from tandem_operator.cluster import Cluster
from tandem_operator.errors import ApiError, NotFound, NotLeader
from tandem_operator.kinds import INFERENCE_REGION, POD, Manifest
from tandem_operator.model import Home
from tandem_operator.resources.names import OPERATOR_MANAGER
from tandem_operator.router_client import fetch_from_router
from tandem_operator.routers import is_router
from tandem_operator.status.merging import merge_conditions
from tandem_operator.status.regions import judge_region
from tandem_operator.store import Store

PERIOD_S = 10.0

_log = logging.getLogger(__name__)


class Regions:
    """Looks at every InferenceRegion of the installation's namespace. They are few: listed, and not watched."""

    def __init__(self, cluster: Cluster, store: Store, home: Home, is_leading: Callable[[], bool]) -> None:
        self._cluster, self._store, self._home, self._is_leading = cluster, store, home, is_leading
        self._tokens: tuple[str, ...] = ()

    def use(self, roots: RootKeys) -> None:
        """Shows tokens of these keys to the routers from now on."""
        self._tokens = roots.internal_tokens()

    async def run(self) -> None:
        """Rounds for ever; none where this region has no name. Call `use` first."""
        if not self._home.region:
            return
        async with aiohttp.ClientSession() as session:
            while True:
                if self._is_leading():
                    await self.round_once(session)
                await asyncio.sleep(PERIOD_S)

    async def round_once(self, session: aiohttp.ClientSession) -> None:
        """Asks the routers, and writes what differs. What fails is done in the next round."""
        try:
            pages = self._cluster.fetch_pages(INFERENCE_REGION, self._home.namespace, "")
            regions = [region async for page in pages for region in page.items]
            matrices = await self._fetch_matrices(session) if regions else []
            for region in regions:
                await self._write(region, matrices)
        except NotFound:
            _log.warning("no InferenceRegions in this cluster: apply the definitions of this release")
        except (ApiError, NotLeader) as error:
            _log.warning("the status of the regions is not written: %s; again in %.0f s", error, PERIOD_S)

    async def _fetch_matrices(self, session: aiohttp.ClientSession) -> list[RegionMatrix]:
        pods = [pod for pod in self._store.all(POD) if is_router(pod, self._home.namespace)]
        asked = (fetch_from_router(session, pod["status"]["podIP"], REGIONS_PATH, self._tokens) for pod in pods)
        return [matrix for body in await asyncio.gather(*asked) if body and (matrix := _read(body))]

    async def _write(self, region: Manifest, matrices: list[RegionMatrix]) -> None:
        metadata, before = region["metadata"], _read_status(region)
        verdict = judge_region(metadata["name"], self._home.region, matrices)
        conditions = merge_conditions(
            before.conditions, {RegionConditionType.REACHABLE: verdict}, metadata["generation"], datetime.now(UTC)
        )
        if conditions == before.conditions:
            return
        identity = {name: metadata[name] for name in ("name", "namespace", "uid")}
        status = InferenceRegionStatus(conditions=conditions).to_wire()
        head = {"apiVersion": INFERENCE_REGION.api_version, "kind": INFERENCE_REGION.name, "metadata": identity}
        await self._cluster.apply_status({**head, "status": status}, OPERATOR_MANAGER)


def _read(body: bytes) -> RegionMatrix | None:
    try:
        return RegionMatrix.model_validate_json(body)
    except ValidationError as error:
        _log.warning("a router says of the regions what cannot be read: %s", error)
        return None


def _read_status(region: Manifest) -> InferenceRegionStatus:
    try:
        return InferenceRegionStatus.model_validate(region.get("status") or {})
    except ValidationError:
        return InferenceRegionStatus()
