"""Looks at LeaderWorkerSets. The kind may be unknown to the cluster, so nothing watches it: whoever needs it asks."""

from tandem_operator.cluster import Cluster
from tandem_operator.errors import NotFound
from tandem_operator.kinds import CONTROLLER_REVISION, LEADER_WORKER_SET, SELECTORS, Manifest
from tandem_operator.model import POOL_ROLES, Fleet, Key
from tandem_operator.store import Store

_EVERYTHING = 2**63 - 1  # newer than any list


def uses_groups(fleet: Fleet, store: Store) -> bool:
    """Whether the fleet has, or may still have, workers that span nodes."""
    kept = store.children(CONTROLLER_REVISION, fleet.key).values()
    wanted = (pool.nodes for pool in (fleet.spec.prefill, fleet.spec.decode) if pool)
    born = (revision["data"]["spec"].get(role) or {} for revision in kept for role in POOL_ROLES)
    return any(nodes > 1 for nodes in (*wanted, *(pool.get("nodes", 1) for pool in born)))


async def look_at_groups(cluster: Cluster, store: Store, namespace: str) -> None:
    """Brings the store to what the namespace has of them; to none where the cluster does not know the kind.

    Raises:
        ApiError: the list failed.
    """
    listed: list[Manifest] = []
    version = _EVERYTHING
    try:
        async for page in cluster.fetch_pages(LEADER_WORKER_SET, namespace, SELECTORS[LEADER_WORKER_SET]):
            listed.extend(page.items)
            version = min(version, page.version)
    except NotFound:
        listed = []
    store.sweep(LEADER_WORKER_SET, listed, version, namespace)


def are_groups_starting(store: Store, key: Key) -> bool:
    """Whether a group is not ready yet: no event will tell when it is."""
    groups = store.children(LEADER_WORKER_SET, key).values()
    return any((one.get("status") or {}).get("readyReplicas", 0) != one["spec"].get("replicas", 1) for one in groups)
