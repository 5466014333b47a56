"""WorkerPool of one role. `spec.replicas` is in it at birth only; afterwards it belongs to whoever scales."""

from tandem_operator.kinds import WORKER_POOL, Manifest
from tandem_operator.model import Fleet, PoolRole
from tandem_operator.resources.metadata import build_metadata, owned_by_fleet
from tandem_operator.resources.names import pool_name


def build_worker_pool(fleet: Fleet, role: PoolRole) -> Manifest:
    """What the operator applies: everything but the size."""
    return {
        "apiVersion": WORKER_POOL.api_version,
        "kind": WORKER_POOL.name,
        "metadata": build_metadata(fleet, pool_name(fleet.key.name, role), owned_by_fleet(fleet), role),
        "spec": {"fleet": fleet.key.name, "role": role},
    }


def build_newborn_worker_pool(fleet: Fleet, role: PoolRole, replicas: int) -> Manifest:
    """What the creation sends: the same, with the size."""
    pool = build_worker_pool(fleet, role)
    pool["spec"]["replicas"] = replicas
    return pool
