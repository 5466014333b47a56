"""KV that prefill workers may be keeping for one request: released where nobody will pull it."""

from tandem_router.fleets import Worker
from tandem_router.legs import release_lease
from tandem_router.serving import Serving
from tandem_router.snapshot import FleetSpec


class Leases:
    """Of one request; one for each prefill leg that a worker may have begun."""

    __slots__ = ("_fleet", "_held", "_serving")

    def __init__(self, serving: Serving, fleet: FleetSpec) -> None:
        self._serving = serving
        self._fleet = fleet
        self._held: dict[str, Worker] = {}  # by the leg's id

    def hold(self, leg_id: str, worker: Worker) -> None:
        """`worker` may be keeping KV under this id."""
        self._held[leg_id] = worker

    def forget(self, leg_id: str) -> None:
        """It keeps nothing."""
        self._held.pop(leg_id, None)

    def forget_all(self) -> None:
        """Pulled, or given up by the decode worker itself."""
        self._held.clear()

    def release(self, leg_id: str) -> None:
        """Nobody will pull this one."""
        worker = self._held.pop(leg_id, None)
        if worker is not None:
            self._send(worker, leg_id)

    def release_all(self, *, but: Worker | None = None) -> None:
        """Nobody will pull any, except what `but` keeps."""
        for leg_id, worker in list(self._held.items()):
            if worker is not but:
                self.release(leg_id)

    def _send(self, worker: Worker, leg_id: str) -> None:
        bearers = self._serving.keys.engine_tokens(self._fleet)
        self._serving.spawn(release_lease(self._serving.pool, worker, bearers, leg_id))
