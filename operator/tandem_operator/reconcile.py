"""One fleet, from whatever state to the next: observe → plan → act → report. Every trigger ends here."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tandem_core.keys import RootKeys, fleet_secret_name
from tandem_operator.act import act, describe
from tandem_operator.autoscale.scaler import Said
from tandem_operator.cluster import Cluster
from tandem_operator.errors import Conflict, NotFound, Rejected
from tandem_operator.groups import are_groups_starting, look_at_groups, uses_groups
from tandem_operator.kinds import INFERENCE_DEPLOYMENT, SECRET, Manifest
from tandem_operator.model import Action, Apply, Defaults, Delete, Fleet, Key, Mark, RouterView, Snapshot
from tandem_operator.observe import UnreadableSpec, observe, read_fleet, read_status
from tandem_operator.plan.fleet import plan_fleet
from tandem_operator.report import write_report, write_status
from tandem_operator.resources.keys_secret import derive_fleet_keys
from tandem_operator.status.facts import Refusal
from tandem_operator.status.fleet import build_report, build_unreadable_status
from tandem_operator.status.refusals import explain_refusal
from tandem_operator.store import Store

_REFUSED_PERIOD = timedelta(seconds=15)  # what the API server refuses may depend on objects that we do not watch
_GROUPS_PERIOD = timedelta(seconds=2)  # LeaderWorkerSets are not watched
_ROUNDS = 4  # a pool is born, its children follow, the report is written; more means that something fights us

_log = logging.getLogger(__name__)


@dataclass
class Reconciler:
    """Everything that a reconciliation touches.

    Attributes:
        roots: set by the leader before the first reconciliation.
    """

    cluster: Cluster
    store: Store
    defaults: Defaults
    now: Callable[[], datetime]
    routers: Callable[[str], RouterView]  # uid → what the routers say
    scaling: Callable[[str], Said | None]  # uid → what the autoscaler says
    roots: RootKeys | None = field(default=None, repr=False)
    _secrets: dict[Key, tuple[str, Manifest]] = field(default_factory=dict, repr=False)  # → fleet uid, its Secret

    async def reconcile(self, key: Key) -> datetime | None:
        """Brings one fleet nearer to its spec, and its status to the truth. Returns when to look again.

        Raises:
            ApiError: try again later.
            NotLeader: another replica will.
        """
        obj = self.store.get(INFERENCE_DEPLOYMENT, key.namespace, key.name)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            self._secrets.pop(key, None)
            return None  # its children go with it, by their owner references
        try:
            fleet = read_fleet(obj, self.defaults.region)
        except UnreadableSpec as error:
            await self._report_unreadable(obj, error)
            return None
        snapshot, refusal = await self._converge(fleet)
        report = build_report(snapshot, self.now(), refusal)
        await write_report(self.cluster, self.store, snapshot, report, self.now())
        starting = are_groups_starting(self.store, fleet.key)
        again_at = [
            report.look_again_at,
            self.now() + _REFUSED_PERIOD if refusal else None,
            self.now() + _GROUPS_PERIOD if starting else None,
        ]
        return min(filter(None, again_at), default=None)

    def forget_secrets(self) -> None:
        """Makes the next reconciliation of each fleet look at its Secret anew."""
        self._secrets.clear()

    async def _converge(self, fleet: Fleet) -> tuple[Snapshot, Refusal | None]:
        """Acts until the plan holds nothing new. Returns the last snapshot, and what the API server refused for good.

        What is planned a second time was done, and its outcome is not seen yet: the watch will bring it.
        """
        taken: list[Action] = []
        for _ in range(_ROUNDS):
            snapshot = await self._observe(fleet)
            actions = [action for action in plan_fleet(snapshot) if action not in taken]
            if not actions:
                return snapshot, None
            taken += actions
            refusal = await self._act_all(fleet, actions)
            if refusal:
                return await self._observe(fleet), refusal
        return await self._observe(fleet), None

    async def _observe(self, fleet: Fleet) -> Snapshot:
        assert self.roots is not None, "nothing is reconciled before the lease is held"
        secret = await self._fetch_secret(fleet)
        if uses_groups(fleet, self.store):
            await look_at_groups(self.cluster, self.store, fleet.key.namespace)
        keys = derive_fleet_keys(self.roots, fleet.uid)
        return observe(
            fleet, self.store, self.defaults, (keys, secret), self.routers(fleet.uid), self.scaling(fleet.uid)
        )

    async def _act_all(self, fleet: Fleet, actions: Sequence[Action]) -> Refusal | None:
        """Marks who leaves, creates and changes, then deletes: what serves goes last, and only if all went well.

        Every action is tried: what one child is refused says nothing about the next.
        """
        marks = [action for action in actions if isinstance(action, Mark)]
        deletions = [action for action in actions if isinstance(action, Delete)]
        others = [action for action in actions if not isinstance(action, Mark | Delete)]
        for group in (marks, others, deletions):
            refusals = [r for r in await _gather(self._act(fleet, action) for action in group) if r]
            if refusals:
                return refusals[0]
        return None

    async def _act(self, fleet: Fleet, action: Action) -> Refusal | None:
        _log.info(describe(action), extra={"key": str(fleet.key), "generation": fleet.generation})
        try:
            await act(action, self.cluster, self.store)
        except (Rejected, Conflict, NotFound) as error:
            refusal = explain_refusal(action, error)
            if refusal is None:
                raise
            return refusal
        if isinstance(action, Apply) and action.manifest["kind"] == SECRET.name:
            self._secrets.pop(fleet.key, None)
        return None

    async def _fetch_secret(self, fleet: Fleet) -> Manifest | None:
        """The fleet's Secret. It is fetched by name and kept: the operator may not list or watch Secrets."""
        uid, held = self._secrets.get(fleet.key, ("", {}))
        if uid == fleet.uid:
            return held
        try:
            secret = await self.cluster.fetch(SECRET, fleet.key.namespace, fleet_secret_name(fleet.key.name))
        except NotFound:
            return None
        self._secrets[fleet.key] = (fleet.uid, secret)
        return secret

    async def _report_unreadable(self, obj: Manifest, error: UnreadableSpec) -> None:
        metadata = obj["metadata"]
        status = build_unreadable_status(read_status(obj), metadata["generation"], error.problem, self.now())
        _log.warning(str(error.problem), extra={"key": f"{metadata['namespace']}/{metadata['name']}"})
        await write_status(self.cluster, self.store, obj, status, self.now())


async def _gather(parts: Iterable[Awaitable[Refusal | None]]) -> list[Refusal | None]:
    """All of them, also when one fails; then its error is raised."""
    outcomes = await asyncio.gather(*parts, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
