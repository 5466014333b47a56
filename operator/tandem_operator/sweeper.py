"""Full lists, now and then: what makes lost events harmless."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from tandem_operator.cluster import Cluster
from tandem_operator.errors import ApiError
from tandem_operator.kinds import SELECTORS, WATCHED, Kind, Manifest
from tandem_operator.metrics import Metrics
from tandem_operator.store import Store, trim
from tandem_operator.watches import WatchCheck

PERIOD_S = 300.0
_DEBOUNCE_S = 0.5
_RETRY_S = 2.0

_log = logging.getLogger(__name__)


class Sweeper:
    """Brings the store to what the API server holds: every 5 minutes, and when asked (after a reconnect).

    Args:
        clock: monotonic seconds.
        namespaces: those that are served; empty for all.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        namespaces: Sequence[str],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._cluster, self._store, self._metrics, self._clock = cluster, store, metrics, clock
        self._scopes: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._wanted = asyncio.Event()
        self._began_s = clock()
        self.last_sweep_s: float | None = None
        self._watches = WatchCheck(clock)

    @property
    def is_synced(self) -> bool:
        """Whether the store has held everything once."""
        return self.last_sweep_s is not None

    @property
    def is_stale(self) -> bool:
        """Whether sweeps have failed for so long that the process had better be restarted."""
        since_s = self._began_s if self.last_sweep_s is None else self.last_sweep_s
        return self._clock() - since_s > 3 * PERIOD_S

    def find_stale_watch(self) -> Kind | None:
        """A kind of which sweeps find news, and events bring none."""
        return self._watches.find_stale()

    def note_event(self, kind: Kind, obj: Manifest) -> None:
        """An event came."""
        self._watches.note_event(kind, obj)

    def ask(self) -> None:
        """Wants a sweep soon; many wishes make one sweep."""
        self._wanted.set()

    async def sweep(self) -> None:
        """Lists every kind, owners first.

        Raises:
            ApiError: a list failed; nothing was evicted of that kind.
        """
        for kind in WATCHED:
            for namespace in self._scopes:
                await self._sweep_kind(kind, namespace)
        self.last_sweep_s = self._clock()

    async def _sweep_kind(self, kind: Kind, namespace: str | None) -> None:
        listed: list[Manifest] = []
        version = 0
        async for page in self._cluster.fetch_pages(kind, namespace, SELECTORS.get(kind, "")):
            listed.extend(trim(kind, item) for item in page.items)  # a page of whole pods is megabytes
            version = version or page.version
        swept = self._store.sweep(kind, listed, version, namespace)
        self._watches.note_sweep(kind, namespace, listed, swept.news)
        if swept.evicted:
            self._metrics.evicted.labels(kind.name).inc(swept.evicted)
            _log.info("%d %s were gone without an event", swept.evicted, kind.plural)

    async def run(self) -> None:
        """Sweeps for ever."""
        while True:
            try:
                await asyncio.wait_for(self._wanted.wait(), PERIOD_S * random.uniform(0.9, 1.1))  # noqa: S311
                await asyncio.sleep(_DEBOUNCE_S)
            except TimeoutError:
                pass
            self._wanted.clear()
            try:
                await self.sweep()
            except ApiError as error:
                _log.warning("sweep failed: %s", error)
                await asyncio.sleep(_RETRY_S)
                self.ask()
