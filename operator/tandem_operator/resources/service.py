"""Headless Service of one role: names for people and metrics; routers find workers by their pods."""

from tandem_api import labels
from tandem_operator.kinds import SERVICE, Manifest
from tandem_operator.model import Fleet, PoolRole
from tandem_operator.resources.metadata import build_metadata, build_selector, owned_by_pool
from tandem_operator.resources.names import pool_name


def build_service(fleet: Fleet, role: PoolRole, pool: Manifest) -> Manifest:
    """The Service of a live WorkerPool."""
    return {
        "apiVersion": SERVICE.api_version,
        "kind": SERVICE.name,
        "metadata": build_metadata(fleet, pool_name(fleet.key.name, role), owned_by_pool(pool), role),
        "spec": {
            "clusterIP": "None",
            "selector": build_selector(fleet, role),
            "ports": [
                {"name": "http", "port": labels.HTTP_PORT, "targetPort": "http"},
                {"name": "admin", "port": labels.ADMIN_PORT, "targetPort": "admin"},
            ],
        },
    }
