"""Asks the routers what they see of each fleet (`GET /internal/v1/fleets`)."""

import asyncio
import logging
from collections.abc import Callable, Iterable

import aiohttp
from pydantic import ValidationError

from tandem_api import labels
from tandem_api.router import FLEETS_PATH, FleetReport, RouterReport
from tandem_core.keys import RootKeys
from tandem_operator.kinds import POD, Manifest
from tandem_operator.model import Key, RouterView
from tandem_operator.router_client import fetch_from_router
from tandem_operator.store import Store
from tandem_operator.views import is_condition_true

SETTLED_PERIOD_S = 10.0
UNSETTLED_PERIOD_S = 2.0

_log = logging.getLogger(__name__)


class Routers:
    """The last report of each router pod.

    Args:
        changed: called with each fleet of which a router says something new.
        is_settled: whether every fleet is as its spec says; then routers are asked less often.
    """

    def __init__(
        self, store: Store, namespace: str, changed: Callable[[Key], None], is_settled: Callable[[], bool]
    ) -> None:
        self._store, self._namespace = store, namespace
        self._changed, self._is_settled = changed, is_settled
        self._reports: dict[str, RouterReport] = {}  # pod name → report
        self._tokens: tuple[str, ...] = ()
        self._pods = 0

    def view(self, uid: str) -> RouterView:
        """What the routers say of the fleet with this uid."""
        reports = tuple(f for r in self._reports.values() for f in r.fleets if f.uid == uid)
        return RouterView(self._pods, len(self._reports), reports)

    def use(self, roots: RootKeys) -> None:
        """Shows tokens of these keys from now on."""
        self._tokens = roots.internal_tokens()

    async def run(self) -> None:
        """Polls for ever; call `use` first."""
        async with aiohttp.ClientSession() as session:
            while True:
                await self._poll(session)
                await asyncio.sleep(SETTLED_PERIOD_S if self._is_settled() else UNSETTLED_PERIOD_S)

    async def _poll(self, session: aiohttp.ClientSession) -> None:
        pods = [pod for pod in self._store.all(POD) if is_router(pod, self._namespace)]
        answers = await asyncio.gather(*(_fetch_report(session, pod["status"]["podIP"], self._tokens) for pod in pods))
        reports = {pod["metadata"]["name"]: r for pod, r in zip(pods, answers, strict=True) if r}
        before, self._reports = self._reports, reports
        shape_changed = (len(pods), len(reports)) != (self._pods, len(before))
        self._pods = len(pods)
        for key in self._store.fleets() if shape_changed else _changed_keys(before.values(), reports.values()):
            self._changed(key)


def is_router(pod: Manifest, namespace: str) -> bool:
    """Whether a pod is a router of this installation that should answer."""
    metadata = pod["metadata"]
    is_component = (metadata.get("labels") or {}).get(labels.COMPONENT) == labels.ROUTER_COMPONENT
    runs = bool(pod["status"].get("podIP")) and is_condition_true(pod, "Ready")
    return is_component and runs and metadata["namespace"] == namespace and "deletionTimestamp" not in metadata


def _changed_keys(before: Iterable[RouterReport], after: Iterable[RouterReport]) -> set[Key]:
    """Fleets of which something that a condition depends on was said anew; counters that merely grow are not."""
    old, new = ({_essence(f) for r in reports for f in r.fleets} for reports in (before, after))
    return {key for key, _ in old ^ new}


def _essence(fleet: FleetReport) -> tuple[Key, tuple[object, ...]]:
    recent = fleet.recent
    is_remote = recent.remote_prefills > recent.local_prefills
    proofs = (bool(recent.kv_bytes), bool(recent.kv_failures), is_remote, bool(recent.local_prefills))
    said = (fleet.uid, fleet.generation, fleet.name_conflict, fleet.kv_fallbacks)
    edges = (bool(fleet.kv_edges.proved), fleet.kv_edges.failure)
    return Key(fleet.namespace, fleet.name), (*said, *proofs, *edges)


async def _fetch_report(session: aiohttp.ClientSession, address: str, tokens: Iterable[str]) -> RouterReport | None:
    body = await fetch_from_router(session, address, FLEETS_PATH, tokens)
    try:
        return RouterReport.model_validate_json(body) if body is not None else None
    except ValidationError as error:
        _log.warning("router %s gives no report that can be read: %s", address, error)
        return None
