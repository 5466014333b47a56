"""A worker that spans nodes: the place of this pod in it, and what is asked instead of an HTTP server that it has not.

One pod leads: it serves HTTP. The others hold ranks only (`vllm serve --headless`), are ready while their engine lives,
and stay until the leader has ended: its streams need them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp

from tandem_api.conditions import Reason
from tandem_worker.errors import WorkerError

# Set by the controller of LeaderWorkerSets in every container of a group.
LEADER_ENV, INDEX_ENV = "LWS_LEADER_ADDRESS", "LWS_WORKER_INDEX"
RENDEZVOUS_PORT = 29500  # PyTorch's usual one; only pods of the fleet reach it

_TIMEOUT = aiohttp.ClientTimeout(total=2)


@dataclass(frozen=True)
class Place:
    """Which of `nodes` pods this is; `leader` is the first one's address."""

    nodes: int
    index: int
    leader: str

    @property
    def leads(self) -> bool:
        """Whether this pod serves HTTP."""
        return self.index == 0


def read_place(environ: Mapping[str, str], nodes: int) -> Place | None:
    """The place of this pod; None where a worker is one pod.

    Raises:
        WorkerError: ConfigInvalid, when a worker of several nodes was not started by a LeaderWorkerSet.
    """
    if nodes == 1:
        return None
    leader, index = environ.get(LEADER_ENV), environ.get(INDEX_ENV, "")
    if not leader or not index.isdigit() or int(index) >= nodes:
        raise WorkerError(
            Reason.CONFIG_INVALID,
            f"{LEADER_ENV} and {INDEX_ENV} do not name one of {nodes} nodes: start such workers by a LeaderWorkerSet",
        )
    return Place(nodes, int(index), leader)


class Headless:
    """Answers of a pod that holds ranks only, in the form of `EngineApi`.

    Args:
        leader_url: the leader's admin port.
        is_alive: whether the engine's process here lives.
    """

    def __init__(self, session: aiohttp.ClientSession, leader_url: str, is_alive: Callable[[], bool]) -> None:
        self._session = session
        self._leader_url = leader_url
        self._is_alive = is_alive

    async def is_healthy(self) -> bool:
        """Whether the ranks here live."""
        return self._is_alive()

    async def fetch_metrics(self) -> str | None:
        """None are exported here."""
        return ""

    async def fetch_inflight(self) -> int | None:
        """1 while the leader lives, for whatever it serves needs these ranks."""
        try:
            async with self._session.get(f"{self._leader_url}/livez", timeout=_TIMEOUT) as answer:
                return int(answer.status == 200)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0
