"""PodDisruptionBudget of one role: a node drain takes one worker of a pool at a time."""

from tandem_operator.kinds import POD_DISRUPTION_BUDGET, Manifest
from tandem_operator.model import Fleet, PoolRole
from tandem_operator.resources.metadata import build_metadata, build_selector, owned_by_pool
from tandem_operator.resources.names import pool_name


def build_disruption_budget(fleet: Fleet, role: PoolRole, pool: Manifest) -> Manifest:
    """The budget of a live WorkerPool. Workers that serve nothing never hold up a drain."""
    return {
        "apiVersion": POD_DISRUPTION_BUDGET.api_version,
        "kind": POD_DISRUPTION_BUDGET.name,
        "metadata": build_metadata(fleet, pool_name(fleet.key.name, role), owned_by_pool(pool), role),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": build_selector(fleet, role)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
