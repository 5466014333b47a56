"""`maxSurge` and `maxUnavailable` of the spec → workers of one pool."""

from math import ceil

from tandem_api.v1alpha1 import Rollout
from tandem_operator.plan.pace import Budget


def decide_budget(rollout: Rollout, size: int) -> Budget:
    """A share of surge is rounded up, one of unavailability down, as Kubernetes does for Deployments."""
    return Budget(size, _resolve(rollout.max_surge, size, up=True), _resolve(rollout.max_unavailable, size, up=False))


def _resolve(value: int | str, size: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    percent = int(value.removesuffix("%"))
    return ceil(percent * size / 100) if up else percent * size // 100
