"""status.startup: how long workers of each template take from being scheduled to being ready.

A worker counts while its first start still shows: no container has been restarted. A readiness that comes and goes
would look like a slow start, so what is published stays until more workers than then can be measured.
"""

from collections.abc import Iterable
from statistics import median

from tandem_api.v1alpha1 import StartupStatus
from tandem_operator.kinds import Manifest
from tandem_operator.model import Snapshot
from tandem_operator.views import parse_time, read_all, template_of

_KEPT = 8


def measure_startup(snapshot: Snapshot) -> list[StartupStatus]:
    """One entry per template that has workers, the newest template first."""
    known = {entry.template_revision: entry for entry in snapshot.fleet.status.startup}
    measured = (
        _measure(workers.pool, workers.template_revision, snapshot.pods, known.get(workers.template_revision))
        for workers in read_all(snapshot.deployments)
    )
    return [entry for entry in measured if entry][:_KEPT]


def _measure(role: str, template: str, pods: Iterable[Manifest], known: StartupStatus | None) -> StartupStatus | None:
    seconds = [s for pod in pods if template_of(pod) == template and (s := _first_start_s(pod)) is not None]
    if len(seconds) <= (known.workers if known else 0):
        return known
    return StartupStatus(
        role=role,
        template_revision=template,
        seconds=median(seconds),
        slowest_seconds=max(seconds),
        workers=len(seconds),
    )


def _first_start_s(pod: Manifest) -> float | None:
    """Seconds from scheduled to ready; None while it is not, or when a container has been restarted."""
    status = pod.get("status") or {}
    since = {c["type"]: c.get("lastTransitionTime") for c in status.get("conditions") or () if c["status"] == "True"}
    scheduled, ready = parse_time(since.get("PodScheduled")), parse_time(since.get("Ready"))
    if scheduled is None or ready is None or any(c.get("restartCount") for c in status.get("containerStatuses") or ()):
        return None
    return max(0.0, (ready - scheduled).total_seconds())
