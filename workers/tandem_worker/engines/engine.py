"""What the supervisor needs of an engine."""

from typing import Protocol

from tandem_api.worker import EngineConfig
from tandem_worker.errors import WorkerError

DEFAULT_SLOTS = 256  # sequences in one batch when nobody says; given to the engine, so that what we report is true


class Engine(Protocol):
    """Serves HTTP on its own; started once."""

    @property
    def is_alive(self) -> bool: ...

    async def start(self) -> None:
        """Begin; returns long before it can serve. Raises WorkerError when it cannot even begin."""

    async def wait(self) -> WorkerError:
        """Returns when it has ended by itself, and why. An engine never ends by itself without a fault."""

    async def stop(self, grace_s: float) -> None:
        """End it, with force after `grace_s`."""


def count_slots(engine: EngineConfig) -> int:
    """Sequences that the engine decodes at once."""
    return engine.max_num_seqs or DEFAULT_SLOTS
