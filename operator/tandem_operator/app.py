"""Where everything is wired: `tandem-operator`, `python -m tandem_operator`."""

import asyncio
import logging
import os
import random
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

from tandem_api import labels
from tandem_core.keys import RootKeys
from tandem_operator.autoscaler import Autoscaler
from tandem_operator.cluster import Cluster
from tandem_operator.control import WORKERS, Control, is_settled, take_event
from tandem_operator.credentials import Credentials, load_credentials
from tandem_operator.errors import ApiError, ConfigurationError, NotLeader, PartEnded
from tandem_operator.handlers import build_registry, stream_events
from tandem_operator.kinds import INFERENCE_DEPLOYMENT, WORKER_POOL, Kind, Manifest
from tandem_operator.lease import Elector, Tenure
from tandem_operator.logs import configure_logging
from tandem_operator.metrics import Metrics
from tandem_operator.model import Defaults, Home, Key
from tandem_operator.reconcile import Reconciler
from tandem_operator.regions import Regions
from tandem_operator.root_keys import ensure_root_keys
from tandem_operator.routers import Routers
from tandem_operator.server import start_server
from tandem_operator.settings import Settings, read_settings
from tandem_operator.store import Store
from tandem_operator.sweeper import Sweeper
from tandem_operator.workqueue import WorkQueue

_log = logging.getLogger(__name__)
_WAIT_S = 1.0
_KEYS_PERIOD_S = 15.0
_KOPF_EXIT_S = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Runs until SIGTERM. Exit code 2: started wrongly, one sentence says how; 1: a part of it ended by itself."""
    try:
        settings = read_settings(arguments, os.environ)
        credentials = load_credentials(settings.kubeconfig, os.environ)
        configure_logging(settings.log_level)
        asyncio.run(Operator(settings, credentials).run())
    except ConfigurationError as error:
        print(f"tandem-operator: {error}", file=sys.stderr)
        return 2
    except PartEnded as error:
        _log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


class Operator:
    """One replica, wired."""

    def __init__(self, settings: Settings, credentials: Credentials) -> None:
        self._settings, self._credentials = settings, credentials
        self._home = settings.namespace or credentials.namespace or "default"
        self._metrics = Metrics()
        self._tenure = Tenure(time.monotonic)
        self._cluster = Cluster(credentials, self._metrics, self._tenure.check)
        self._gained, self._stopping = asyncio.Event(), asyncio.Event()
        self._queue: WorkQueue[Key] = WorkQueue(lambda: random.uniform(0.8, 1.2))  # noqa: S311
        self._control = Control(self._queue, self._tenure, self._metrics, settings.serves, time.monotonic)
        self._store = Store(self._control.enqueue, self._control.enqueue_soon)
        self._sweeper = Sweeper(self._cluster, self._store, self._scopes(), self._metrics, time.monotonic)
        self._routers = Routers(self._store, self._home, self._control.enqueue, lambda: is_settled(self._store))
        self._autoscaler = Autoscaler(
            self._cluster, self._store, self._metrics, lambda: self._tenure.is_held, self._control.enqueue
        )
        self._regions = Regions(
            self._cluster, self._store, Home(self._home, settings.region), lambda: self._tenure.is_held
        )
        self._reconciler = Reconciler(
            self._cluster,
            self._store,
            self._defaults(),
            lambda: datetime.now(UTC),
            self._routers.view,
            self._autoscaler.said,
        )

    def _scopes(self) -> tuple[str, ...]:
        """Namespaces to watch: those served, and the operator's own, where its routers are."""
        served = self._settings.namespaces
        return tuple(sorted({*served, self._home})) if served else ()

    def _defaults(self) -> Defaults:
        settings = self._settings
        return Defaults(
            settings.engine_image,
            settings.worker_image,
            self._home,
            settings.endpoint,
            settings.monitoring_namespace,
            settings.region,
        )

    async def run(self) -> None:
        """Runs until a signal, or until a part of it fails."""
        host = self._settings.health_host
        url = f"http://{f'[{host}]' if ':' in host else host}:{self._settings.health_port}/healthz"
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._cluster)
            server = await start_server(host, self._settings.metrics_port, self._metrics, self._is_ready)
            stack.push_async_callback(server.cleanup)
            await self._wait_for_definitions()
            elector = self._elector()
            registry = build_registry(self._credentials, self._take_event, self._sweeper.ask, self._find_fault)
            end = asyncio.Event()
            streams = asyncio.create_task(stream_events(registry, self._scopes(), url, self._stopping.set, end))
            parts = [asyncio.create_task(part) for part in self._parts(elector)]
            try:
                # The end of any part ends the process: restarting is the recovery that is always right.
                await asyncio.wait([streams, *parts], return_when=asyncio.FIRST_COMPLETED)
            finally:
                await self._stop(elector, parts)
                end.set()
                await asyncio.wait([streams], timeout=_KOPF_EXIT_S)
                await _raise_first(*parts, streams)
            if not self._stopping.is_set():
                raise PartEnded("the streams of events, or another part, ended by themselves; the lines above say why")

    def _parts(self, elector: Elector) -> Iterator[Coroutine[Any, Any, None]]:
        yield self._wait_for_signal()
        yield self._sweeper.run()
        yield self._renew(elector)
        yield self._lead()
        yield self._control.resync(self._store, self._reconciler)
        for _ in range(WORKERS):
            yield self._control.work(self._reconciler)

    async def _wait_for_signal(self) -> None:
        await self._stopping.wait()

    async def _stop(self, elector: Elector, parts: Sequence[asyncio.Task[None]]) -> None:
        """Our own parts first, so that nobody renews the lease; then the lease. kopf takes its time afterwards."""
        for part in parts:
            part.cancel()
        await asyncio.wait(parts)
        self._queue.close()
        await elector.release()

    async def _wait_for_definitions(self) -> None:
        """Waits until the API server knows our kinds: kopf would run without the streams that it cannot find."""
        wanted = {INFERENCE_DEPLOYMENT.plural, WORKER_POOL.plural}
        told = False
        while True:
            try:
                if wanted <= await self._cluster.fetch_resources(labels.GROUP, labels.VERSION):
                    return
                problem = "the custom resource definitions are not installed: kubectl apply --server-side -f crds/"
            except ApiError as error:
                problem = str(error)
            if not told:
                _log.warning("waiting: %s", problem)
                told = True
            await asyncio.sleep(_WAIT_S)

    def _elector(self) -> Elector:
        place = (self._home, self._settings.lease_name, self._settings.identity)
        return Elector(self._cluster, self._tenure, time.monotonic, place)

    async def _renew(self, elector: Elector) -> None:
        """Keeps trying for the lease, and keeps it."""
        led, connected = False, True
        while True:
            await elector.step()
            if self._tenure.is_held and not led:
                self._gained.set()
            if elector.is_connected and not connected:  # kopf may have missed deletions, and keys wait long by now
                self._sweeper.ask()
                self._control.enqueue_all(self._store)
            led, connected = self._tenure.is_held, elector.is_connected
            self._metrics.leader.set(led)
            await asyncio.sleep(elector.next_step_s())

    async def _lead(self) -> None:
        """Each time that the lease is gained: takes up every fleet. Apart from `_renew`, which must not wait for it."""
        async with asyncio.TaskGroup() as polling:
            while True:
                await self._gained.wait()
                self._gained.clear()
                is_first = self._reconciler.roots is None
                self._use_keys(await self._take_up())
                if is_first:
                    polling.create_task(self._routers.run())
                    polling.create_task(self._autoscaler.run(Home(self._home, self._settings.region)))
                    polling.create_task(self._regions.run())
                    polling.create_task(self._follow_keys())
                self._control.enqueue_all(self._store)
                _log.info("leading as %s", self._settings.identity)

    async def _take_up(self) -> RootKeys:
        """The root keys, once the store has held everything."""
        while True:
            try:
                roots = await ensure_root_keys(self._cluster, self._home, self._reconciler.roots)
                if not self._sweeper.is_synced:
                    await self._sweeper.sweep()
                return roots
            except (ApiError, NotLeader) as error:
                _log.warning("cannot take up the fleets yet: %s", error)
                await asyncio.sleep(_WAIT_S)

    def _use_keys(self, roots: RootKeys) -> None:
        self._reconciler.roots = roots
        self._routers.use(roots)
        self._autoscaler.use(roots)
        self._regions.use(roots)

    async def _follow_keys(self) -> None:
        """Notices a rotation: there is no watch on Secrets, and the operator may not list them."""
        while True:
            await asyncio.sleep(_KEYS_PERIOD_S)
            try:
                self._tenure.check()
                roots = await ensure_root_keys(self._cluster, self._home, self._reconciler.roots)
            except NotLeader:
                continue
            except (ApiError, ConfigurationError) as error:
                _log.warning("the keys stay as they were: %s", error)
                continue
            if roots != self._reconciler.roots:
                _log.info("the root keys changed: every fleet gets its new ones")
                self._use_keys(roots)
                self._control.enqueue_all(self._store)

    def _take_event(self, kind: Kind, event_type: str | None, obj: Manifest) -> None:
        take_event(self._store, kind, event_type, obj)
        self._sweeper.note_event(kind, obj)

    def _is_ready(self) -> bool:
        return self._sweeper.is_synced

    def _find_fault(self) -> str | None:
        if self._sweeper.is_stale:
            return "no sweep has succeeded for 15 minutes"
        stale = self._sweeper.find_stale_watch()
        if stale:
            return f"the watch of {stale.plural} brings nothing any more"
        return "a reconciliation is stuck" if self._control.is_stuck() else None


async def _raise_first(*tasks: asyncio.Task[None]) -> None:
    """Raises what the first failed task raised; a task that is not done yet is cancelled."""
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise _first_cause(outcome)


def _first_cause(error: Exception) -> Exception:
    """A task group wraps what its body raised; people want the sentence inside."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
