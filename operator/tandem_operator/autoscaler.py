"""The autoscaler's loop: read the routers, decide on every fleet, write what differs. On the leader only.

Level-triggered: a round that fails is made up for by the next. What is decided is a value of `autoscale`; here is only
what touches the world.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp

from tandem_api.router import DemandAnswer
from tandem_core.keys import RootKeys
from tandem_operator.act import act
from tandem_operator.autoscale.configure import is_watched
from tandem_operator.autoscale.demand import BadDemandError
from tandem_operator.autoscale.pools import see_pool
from tandem_operator.autoscale.region_words import RegionWords
from tandem_operator.autoscale.scaler import PoolSeen, Said, Scaler, Sources
from tandem_operator.autoscale.settings import ROUND_S, Role
from tandem_operator.cluster import Cluster
from tandem_operator.demand_reader import DemandReader
from tandem_operator.errors import ApiError, NotLeader
from tandem_operator.kinds import DEPLOYMENT, INFERENCE_DEPLOYMENT, LEADER_WORKER_SET, POD, WORKER_POOL
from tandem_operator.metrics import Metrics
from tandem_operator.model import POOL_ROLES, Fleet, Home, Key, Scale
from tandem_operator.observe import UnreadableSpec, read_fleet
from tandem_operator.resources.names import OPERATOR_MANAGER
from tandem_operator.routers import is_router
from tandem_operator.store import Store
from tandem_operator.transitions import build_scaling_event
from tandem_operator.validate import find_problem

LOST_CLOCK_ROUNDS = 24  # two minutes of a clock that lies before the last decision: then begin anew

_log = logging.getLogger(__name__)


@dataclass
class _Watched:
    """A fleet that is looked after, as of one version of its object."""

    fleet: Fleet
    scaler: Scaler
    since_s: float
    turned_back: int = 0  # rounds in which the clock lay before the last decision


class Autoscaler:
    """Looks after every fleet that has objectives.

    Args:
        is_leading: whether this replica may write.
        changed: called with each fleet of which there is news for its status.
        clock: Unix seconds, as the routers count.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        metrics: Metrics,
        is_leading: Callable[[], bool],
        changed: Callable[[Key], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster, self._store, self._metrics = cluster, store, metrics
        self._is_leading, self._changed, self._clock = is_leading, changed, clock
        self._watched: dict[str, _Watched] = {}  # fleet uid
        self._words = RegionWords()
        self._tokens: tuple[str, ...] = ()

    def said(self, uid: str) -> Said | None:
        """What the status of a fleet should say; None for one that is not looked after."""
        watched = self._watched.get(uid)
        return watched.scaler.said if watched else None

    def use(self, roots: RootKeys) -> None:
        """Shows tokens of these keys to the routers from now on."""
        self._tokens = roots.internal_tokens()

    async def run(self, home: Home) -> None:
        """Rounds for ever, while leading; call `use` first."""
        async with aiohttp.ClientSession() as session:
            reader: DemandReader | None = None
            while True:
                if not self._is_leading():
                    reader = None  # another leads: what is known here grows stale
                    self._watched.clear()
                else:
                    reader = reader or self.build_reader(session)
                    await self.round_once(reader, home)
                await asyncio.sleep(ROUND_S)

    def build_reader(self, session: aiohttp.ClientSession) -> DemandReader:
        """A reader that has read nothing yet, for a new leader."""
        return DemandReader(session, lambda: self._tokens, self._take, self._clock)

    async def round_once(self, reader: DemandReader, home: Home) -> None:
        """Read the routers, decide on every fleet, write what differs."""
        self._follow_fleets(home.region)
        if not self._watched:
            return
        await reader.read([pod for pod in self._store.all(POD) if is_router(pod, home.namespace)])
        now_s = self._clock()
        expected = reader.expected()
        fresh = [source.name for source in expected if source.is_fresh(now_s)]
        for watched in list(self._watched.values()):
            covers_from = reader.covers_from(watched.since_s)
            sources = Sources(len(expected), tuple(fresh), reader.newest_s(), covers_from)
            await self._step(watched, sources, now_s, home.region)
            await asyncio.sleep(0)  # a hundred decisions in a row would hold up the lease

    def _follow_fleets(self, region: str) -> None:
        """Takes up fleets that are new, follows edits, drops those that are gone."""
        seen: set[str] = set()
        for obj in self._store.all(INFERENCE_DEPLOYMENT):
            metadata = obj["metadata"]
            watched = self._watched.get(metadata["uid"])
            if metadata.get("deletionTimestamp"):
                continue
            if watched is None or watched.fleet.generation != metadata["generation"]:
                try:
                    watched = self._take_up(read_fleet(obj, region), watched)
                except UnreadableSpec:
                    continue  # its status says so
            if watched is not None:
                seen.add(metadata["uid"])
        for uid in self._watched.keys() - seen:
            self._metrics.forget_fleet(str(self._watched.pop(uid).fleet.key))

    def _take_up(self, fleet: Fleet, watched: _Watched | None) -> _Watched | None:
        if not fleet.is_here or not is_watched(fleet.spec) or find_problem(fleet.spec) is not None:
            return None
        if watched is None:
            now_s = self._clock()
            watched = _Watched(fleet, Scaler(fleet.spec, fleet.status, now_s), now_s)
        watched.fleet = fleet
        watched.scaler.follow(fleet.spec)
        self._watched[fleet.uid] = watched
        return watched

    def _take(self, router: str, answer: DemandAnswer) -> None:
        """One router's answer, to the fleets that it is about; all others are silent there."""
        self._words.take(answer.regions, self._clock())
        told = {demand.uid: demand for demand in answer.fleets}
        for uid, watched in self._watched.items():
            demand = told.get(uid)
            if demand is None:
                watched.scaler.silence(router)
                continue
            try:
                watched.scaler.take(router, demand, self._clock())
            except BadDemandError as error:
                _log.warning("router %s: %s", router, error, extra={"key": str(watched.fleet.key)})

    async def _step(self, watched: _Watched, sources: Sources, now_s: float, region: str) -> None:
        fleet, scaler = watched.fleet, watched.scaler
        began_s, before = time.perf_counter(), scaler.decision
        pools = self._see(fleet, now_s)
        if len(pools) < len(fleet.pool_roles()):
            return  # not born yet
        regions = self._words.meant_for(region, str(fleet.key), scaler.said.region_demand) if region else None
        is_news = scaler.step(pools, sources, now_s, regions)
        if scaler.decision is not None and scaler.decision is not before:
            self._metrics.observe_decision(str(fleet.key), scaler.decision, time.perf_counter() - began_s)
        await self._write(fleet, scaler, pools)
        if is_news:
            self._changed(fleet.key)
        self._mind_clock(watched)

    def _see(self, fleet: Fleet, now_s: float) -> dict[Role, PoolSeen]:
        store, key, now = self._store, fleet.key, datetime.fromtimestamp(now_s, UTC)
        deployments = [obj for kind in (DEPLOYMENT, LEADER_WORKER_SET) for obj in store.children(kind, key).values()]
        pods = list(store.children(POD, key).values())
        pools = {pool["spec"]["role"]: pool for pool in store.children(WORKER_POOL, key).values()}
        obj = store.get(INFERENCE_DEPLOYMENT, key.namespace, key.name) or {}
        status = obj.get("status") or {}
        return {role: see_pool(pools[role], deployments, pods, status, now) for role in POOL_ROLES if role in pools}

    async def _write(self, fleet: Fleet, scaler: Scaler, pools: Mapping[Role, PoolSeen]) -> None:
        """Growth first: what shrinks may have waited for it."""
        wanted = scaler.wanted()
        for role in sorted(wanted, key=lambda one: pools[one].desired - wanted[one]):
            if wanted[role] != pools[role].desired:
                await self._scale(fleet, scaler, role, pools[role].desired, wanted[role])

    async def _scale(self, fleet: Fleet, scaler: Scaler, role: Role, before: int, after: int) -> None:
        decision = scaler.decision
        assert decision is not None
        sentence = (decision.prefill if role == "prefill" else decision.decode).explain(role, before)
        pool = next(p for p in self._store.children(WORKER_POOL, fleet.key).values() if p["spec"]["role"] == role)
        _log.info(sentence, extra={"key": str(fleet.key), "generation": fleet.generation})
        try:
            await act(Scale(fleet.key.namespace, pool["metadata"]["name"], after, sentence), self._cluster, self._store)
            event = build_scaling_event(fleet.key, fleet.uid, sentence, datetime.now(UTC), is_up=after > before)
            await self._cluster.create(event, OPERATOR_MANAGER)
        except (ApiError, NotLeader) as error:
            _log.warning("%s not scaled, or not told: %s; again in %.0f s", role, error, ROUND_S)

    def _mind_clock(self, watched: _Watched) -> None:
        """A clock that was set back would hold a fleet until it has caught up: after a while it is believed."""
        decision = watched.scaler.decision
        turned_back = decision is not None and decision.hold is not None and decision.hold.reason == "ClockWentBack"
        watched.turned_back = watched.turned_back + 1 if turned_back else 0
        if watched.turned_back > LOST_CLOCK_ROUNDS:
            _log.warning("the clock was set back: deciding anew", extra={"key": str(watched.fleet.key)})
            del self._watched[watched.fleet.uid]
