"""Which workers go when a pool shrinks: those with the least in-flight work, then those with the least useful cache.

Kubernetes chooses by `controller.kubernetes.io/pod-deletion-cost`, after pods that are not ready. Marks are written
only where a choice matters, and taken off when the shrinking was called off.
"""

from collections.abc import Iterator, Mapping, Sequence

from tandem_api.labels import DELETION_COST_ANNOTATION
from tandem_operator.kinds import Manifest
from tandem_operator.model import Mark, RouterView, Snapshot
from tandem_operator.views import Workers, is_condition_true, read_all, template_of

FIRST_COST = "-1000"

Load = tuple[int, float]  # requests in flight, prompt tokens that its cache saved lately


def plan_marks(snapshot: Snapshot, shrinks: Mapping[str, int]) -> Iterator[Mark]:
    """Marks for the Deployments that are to shrink (name → workers that stay), and the end of marks that are stale."""
    loads = read_loads(snapshot.routers)
    for workers in read_all(snapshot.deployments):
        pods = [pod for pod in snapshot.pods if template_of(pod) == workers.template_revision and _is_ready(pod)]
        if workers.name in shrinks:
            yield from _mark(pods, shrinks[workers.name], loads)
        elif workers.is_settled:
            yield from (_unmark(pod, "the pool does not shrink") for pod in pods if _is_marked(pod))


def read_loads(routers: RouterView) -> dict[str, Load]:
    """Pod → its load, over all routers; pods at rest with nothing to lose are left out."""
    loads: dict[str, Load] = {}
    for report in routers.reports:
        for told in report.loads:
            inflight, hits = loads.get(told.pod, (0, 0.0))
            loads[told.pod] = (inflight + told.inflight, hits + told.hit_tokens)
    return loads


def _mark(pods: Sequence[Manifest], stay: int, loads: Mapping[str, Load]) -> Iterator[Mark]:
    leaving = len(pods) - stay
    marked = [pod for pod in pods if _is_marked(pod)]
    if stay == 0 or leaving <= 0 or len({loads.get(_name(pod), (0, 0.0)) for pod in pods}) == 1:
        leaving = 0  # all of them go, none does, or any will do
    if len(marked) > leaving:
        yield from (_unmark(pod, "fewer workers leave") for pod in _by_load(marked, loads)[leaving:])
    others = [pod for pod in pods if not _is_marked(pod)]
    for pod in _by_load(others, loads)[: max(0, leaving - len(marked))]:
        inflight, hits = loads.get(_name(pod), (0, 0.0))
        reason = f"it leaves first: {inflight} requests in flight, {hits:.0f} tokens saved by its cache"
        yield _build(pod, FIRST_COST, reason)


def _by_load(pods: Sequence[Manifest], loads: Mapping[str, Load]) -> list[Manifest]:
    return sorted(pods, key=lambda pod: (loads.get(_name(pod), (0, 0.0)), _name(pod)))


def _is_ready(pod: Manifest) -> bool:
    return is_condition_true(pod, "Ready") and "deletionTimestamp" not in pod["metadata"]


def _is_marked(pod: Manifest) -> bool:
    return (pod["metadata"].get("annotations") or {}).get(DELETION_COST_ANNOTATION) == FIRST_COST


def _name(pod: Manifest) -> str:
    name: str = pod["metadata"]["name"]
    return name


def _unmark(pod: Manifest, reason: str) -> Mark:
    return _build(pod, None, reason)


def _build(pod: Manifest, cost: str | None, reason: str) -> Mark:
    metadata = pod["metadata"]
    return Mark(metadata["namespace"], metadata["name"], metadata["uid"], cost, reason)


def find_shrinks(wanted: Mapping[str, int], workers: Sequence[Workers]) -> dict[str, int]:
    """Deployments that should have fewer workers than they do: name → workers that stay."""
    return {w.name: wanted[w.name] for w in workers if wanted.get(w.name, w.desired) < w.desired}
