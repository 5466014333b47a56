"""How many workers a pool should have, and who says so."""

from collections.abc import Mapping

from tandem_operator.kinds import Manifest
from tandem_operator.model import Fleet, PoolRole, Scale
from tandem_operator.resources.revisions import pool_of


def decide_sizes(fleet: Fleet, pools: Mapping[str, Manifest]) -> dict[PoolRole, int]:
    """Workers per pool that should be. Unless the mode is Fixed and the spec has a number, the live WorkerPool decides.

    So no change of mode moves a size by itself: whoever decides next starts from what is.
    """
    return {role: _decide_size(fleet, role, pools.get(role)) for role in fleet.pool_roles()}


def plan_scale(fleet: Fleet, pool: Manifest, size: int) -> Scale | None:
    """The write that brings a live WorkerPool to `size`, if it has another."""
    live = pool["spec"].get("replicas")
    if live == size:
        return None
    metadata = pool["metadata"]
    reason = f"autoscaling.mode is {fleet.spec.autoscaling.mode}: {live} workers → {size}"
    return Scale(metadata["namespace"], metadata["name"], size, reason)


def _decide_size(fleet: Fleet, role: PoolRole, pool: Manifest | None) -> int:
    written = pool_of(fleet.spec, role)
    if fleet.spec.autoscaling.mode == "Fixed" and written.replicas is not None:
        return written.replicas
    live: int | None = pool["spec"].get("replicas") if pool else None
    if live is not None:
        return live
    return written.min if written.replicas is None else written.replicas
