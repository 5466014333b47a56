"""Asks workers for their state once a second; a worker that does not answer for some seconds is not used.

Of several replicas one asks each worker and tells the others. Each asks for itself where it hears nothing, where it
waits for an answer, and from time to time.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from pydantic import ValidationError

from tandem_api.worker import WorkerState
from tandem_router.fleets import STALL_S, Catalog, Fleet, Worker
from tandem_router.http1.exchange import Endpoint, UpstreamError
from tandem_router.http1.messages import encode_request
from tandem_router.http1.outbound import UpstreamPool

LOG = logging.getLogger(__name__)
STATE_PATH = b"/tandem/v1/state"
INTERVAL_S = 1.0
LATE_S = 0.5
TIMEOUT_S = 1.0
MAX_STATE_BYTES = 16 * 1024
UNHEARD_S = 1.6  # nobody has told of the worker for this long, or it has sent us nothing
REREAD_S = 10.0  # what peers do not pass on, such as counters


@dataclass
class LivenessPoller:
    """Keeps `Worker.state` fresh, and gives up what runs on workers that are lost."""

    catalog: Catalog
    pool: UpstreamPool
    owns: Callable[[Worker, float], bool] = lambda _worker, _now_s: True
    on_read: Callable[[Worker, float], None] = lambda _worker, _age_s: None
    stall_s: float = STALL_S
    _asking: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def run(self) -> None:
        """Poll until cancelled."""
        due_s = self.pool.loop.time()
        while True:
            now_s = self.pool.loop.time()
            self.tick(now_s, is_late=now_s - due_s > LATE_S)
            due_s = self.pool.loop.time() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)

    def tick(self, now_s: float, *, is_late: bool = False) -> None:
        """One round: ask all, give up the lost, wake the waiting.

        `is_late`: the loop stood still before this round. What was sent to us meanwhile is read first.
        """
        for fleet, worker in self.catalog.workers():
            if self._must_ask(worker, now_s):
                self.ask_soon(fleet, worker)
            if not is_late:
                worker.fail_silent(now_s, self.stall_s)
            worker.warm_up(now_s)
        for fleet in self.catalog.fleets.values():
            fleet.queue.wake()

    def _must_ask(self, worker: Worker, now_s: float) -> bool:
        if worker.seen_s is None or worker.read_s is None or self.owns(worker, now_s):
            return True
        is_unheard = now_s - worker.seen_s > UNHEARD_S or now_s - worker.read_s > REREAD_S
        return is_unheard or worker.is_silent_since(now_s) > UNHEARD_S

    def ask_new(self) -> None:
        """Ask the workers that have never told their state: they are not used before."""
        for fleet, worker in self.catalog.workers():
            if worker.seen_s is None:
                self.ask_soon(fleet, worker)

    def ask_soon(self, fleet: Fleet, worker: Worker) -> None:
        """Ask for the worker's state, unless it is being asked."""
        uid, endpoint = worker.spec.uid, worker.admin_endpoint
        if endpoint is None or uid in self._asking:
            return
        task = self.pool.loop.create_task(self._ask(fleet, worker, endpoint))
        self._asking[uid] = task
        task.add_done_callback(lambda _: self._asking.pop(uid, None))

    async def _ask(self, fleet: Fleet, worker: Worker, endpoint: Endpoint) -> None:
        state = await fetch_state(self.pool, endpoint)
        if state is None:
            worker.is_mute = True
            return
        was_usable = worker.is_usable(self.pool.loop.time())
        if fleet.take_state(worker, state, self.pool.loop.time()):
            self.catalog.forget_cache(worker)
        self.on_read(worker, 0.0)
        if not was_usable:
            fleet.queue.wake()


async def fetch_state(pool: UpstreamPool, endpoint: Endpoint, load_id: str = "") -> WorkerState | None:
    """A worker's state, None when it does not tell; with what became of one load, if `load_id` names it."""
    target = STATE_PATH + (b"?load=" + quote(load_id, safe="").encode() if load_id else b"")
    request = encode_request(b"GET", target, endpoint.authority, [], b"")
    try:
        answer = await pool.fetch(endpoint, request, MAX_STATE_BYTES, timeout_s=TIMEOUT_S)
        return WorkerState.model_validate_json(answer.body) if answer.head.status == 200 else None
    except UpstreamError:
        return None
    except ValidationError as error:
        LOG.warning("worker state unreadable", extra={"endpoint": str(endpoint), "error": str(error)[:500]})
        return None
