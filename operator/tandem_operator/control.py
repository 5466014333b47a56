"""Turns events into reconciliations: the queue, its workers, and leadership."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from tandem_operator.errors import ApiError, NotLeader
from tandem_operator.kinds import INFERENCE_DEPLOYMENT, Kind, Manifest
from tandem_operator.lease import Tenure
from tandem_operator.metrics import Metrics
from tandem_operator.model import Key
from tandem_operator.reconcile import Reconciler
from tandem_operator.store import Store
from tandem_operator.workqueue import WorkQueue

WORKERS = 8
RESYNC_S = 600.0
CROWD_S = 0.1
_STUCK_S = 180.0

_log = logging.getLogger(__name__)


class Control:
    """The loop around `Reconciler.reconcile`.

    Args:
        serves: whether a namespace is this installation's.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        queue: WorkQueue[Key],
        tenure: Tenure,
        metrics: Metrics,
        serves: Callable[[str], bool],
        clock: Callable[[], float],
    ) -> None:
        self._queue, self._tenure, self._metrics = queue, tenure, metrics
        self._serves, self._clock = serves, clock
        self._started: dict[Key, float] = {}  # fleets in work → since when

    def enqueue(self, key: Key) -> None:
        """Wants a fleet to be reconciled."""
        if self._serves(key.namespace):
            self._queue.add(key)
            self._metrics.queue_depth.set(self._queue.depth)

    def enqueue_soon(self, key: Key) -> None:
        """Wants it a moment later, so that the pods of a whole pool make one reconciliation."""
        if self._serves(key.namespace):
            self._queue.add_after(key, CROWD_S)

    def enqueue_all(self, store: Store) -> None:
        """Wants every fleet to be reconciled."""
        for key in store.fleets():
            self.enqueue(key)

    def is_stuck(self) -> bool:
        """Whether a reconciliation has been in work for so long that it will not end."""
        return any(self._clock() - since > _STUCK_S for since in self._started.values())

    async def work(self, reconciler: Reconciler) -> None:
        """One worker, for ever. Followers let keys pass: on taking the lease every fleet is looked at anyway."""
        while True:
            key = await self._queue.get()
            try:
                if self._tenure.is_held and reconciler.roots:
                    await self._process(key, reconciler)
            finally:
                self._started.pop(key, None)
                self._queue.done(key)
                self._metrics.queue_depth.set(self._queue.depth)

    async def _process(self, key: Key, reconciler: Reconciler) -> None:
        self._started[key] = began_s = self._clock()
        outcome = "error"
        try:
            look_again_at = await reconciler.reconcile(key)
            outcome = "ok"
            self._queue.forget(key)
            if look_again_at:
                delay_s = (look_again_at - datetime.now(UTC)).total_seconds()
                self._queue.add_after(key, max(delay_s, 0.0) + 0.1)
        except NotLeader:
            outcome = "not_leader"
        except ApiError as error:
            delay_s = self._queue.retry(key, error.retry_after_s)
            _log.warning("%s; again in %.1f s", error, delay_s, extra={"key": str(key)})
        except Exception:
            # A fault in our code for one fleet must not stop the others; it is told in full, and tried again.
            _log.exception("reconciliation failed, again in %.1f s", self._queue.retry(key), extra={"key": str(key)})
        finally:
            self._metrics.reconcile_seconds.labels(outcome).observe(self._clock() - began_s)

    async def resync(self, store: Store, reconciler: Reconciler) -> None:
        """Looks at everything every ten minutes, also at what has no watch (the fleets' Secrets)."""
        while True:
            await asyncio.sleep(RESYNC_S)
            reconciler.forget_secrets()
            self.enqueue_all(store)


def is_settled(store: Store) -> bool:
    """Whether every fleet is as its spec says: its last status is of its generation, and Ready is true."""
    return all(_is_ready(obj) for obj in store.all(INFERENCE_DEPLOYMENT))


def _is_ready(obj: Manifest) -> bool:
    status = obj.get("status") or {}
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    return status.get("observedGeneration") == obj["metadata"]["generation"] and conditions.get("Ready") == "True"


def take_event(store: Store, kind: Kind, event_type: str | None, obj: Manifest) -> None:
    """One watch event into the store."""
    if event_type == "DELETED":
        store.remove(kind, obj)
    else:
        store.upsert(kind, obj)
