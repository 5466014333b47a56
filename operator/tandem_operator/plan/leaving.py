"""The plan of a fleet that another region runs: what this one still has of it goes."""

from collections.abc import Iterator

from tandem_operator.kinds import WORKER_POOL, kind_of
from tandem_operator.model import Delete, Snapshot
from tandem_operator.views import read_all

_REASON = "spec.regions does not list this region"


def plan_leaving(snapshot: Snapshot) -> Iterator[Delete]:
    """Workers first, which finish their streams as they always do; their pools once they are gone.

    Keys and revisions stay with the InferenceDeployment: draining workers need the keys, and a region that is listed
    again takes up where it was.
    """
    workers = read_all(snapshot.deployments)
    namespace = snapshot.fleet.key.namespace
    for one in workers:
        yield Delete(kind_of(one.manifest), namespace, one.name, one.uid, _REASON)
    for pool in snapshot.pools.values() if not workers else ():
        yield Delete(WORKER_POOL, namespace, pool["metadata"]["name"], pool["metadata"]["uid"], _REASON)
