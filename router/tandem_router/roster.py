"""Who of a fleet's workers can take requests, by kv-revision and role: asked at every request, so kept for a moment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tandem_router.policy.revisions import Readiness

if TYPE_CHECKING:
    from tandem_router.fleets import Worker

STAYS_S = 0.02  # only a worker's silence changes it without a word, and that is measured in seconds


@dataclass(slots=True)
class Group:
    """Usable workers of one kv-revision."""

    prefills: "list[Worker]" = field(default_factory=list)
    decodes: "list[Worker]" = field(default_factory=list)

    def readiness(self) -> Readiness:
        """As the choice of a kv-revision wants it."""
        newest = max(worker.spec.created for worker in (*self.prefills, *self.decodes))
        return Readiness(len(self.prefills), len(self.decodes), newest)


class Roster:
    """Groups by kv-revision, of `workers` as they are by then. Times are of one clock."""

    def __init__(self, workers: "Mapping[str, Worker]") -> None:
        self._workers = workers
        self._groups: dict[str, Group] | None = None
        self._made_s = 0.0

    def groups(self, now_s: float) -> dict[str, Group]:
        """Of now, or of a moment ago."""
        if self._groups is None or not 0.0 <= now_s - self._made_s < STAYS_S:
            self._groups = group_usable(self._workers.values(), now_s)
            self._made_s = now_s
        return self._groups

    def forget(self) -> None:
        """A worker came, went, or told another state."""
        self._groups = None


def group_usable(workers: "Iterable[Worker]", now_s: float) -> dict[str, Group]:
    """Usable workers by kv-revision."""
    groups: dict[str, Group] = {}
    for worker in workers:
        if worker.is_usable(now_s):
            group = groups.setdefault(worker.spec.kv_revision, Group())
            (group.prefills if worker.is_prefill else group.decodes).append(worker)
    return groups
