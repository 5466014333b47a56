"""LeaderWorkerSet of one role and one template, for workers that span nodes: one group is one worker.

Source: https://lws.sigs.k8s.io/docs/reference/leaderworkerset.v1/. Its controller tells each pod of a group its place
by LWS_LEADER_ADDRESS and LWS_WORKER_INDEX, and makes a group anew when one of its pods fails.
"""

from typing import Any

from tandem_api import labels
from tandem_operator.kinds import LEADER_WORKER_SET, Manifest
from tandem_operator.model import Fleet, PoolRole
from tandem_operator.resources.deployment import build_workers_metadata
from tandem_operator.resources.kept_revision import RoleTemplate
from tandem_operator.resources.revisions import pool_of


def build_leader_worker_set(
    fleet: Fleet, role: PoolRole, pool: Manifest, born: RoleTemplate, replicas: int
) -> Manifest:
    """The LeaderWorkerSet of a template, owned by the live WorkerPool `pool`; `replicas` counts groups."""
    return {
        "apiVersion": LEADER_WORKER_SET.api_version,
        "kind": LEADER_WORKER_SET.name,
        "metadata": build_workers_metadata(fleet, role, pool, born),
        "spec": {
            "replicas": replicas,
            "startupPolicy": "LeaderCreated",  # the leader is ready only when the others are there
            "leaderWorkerTemplate": {
                "size": pool_of(fleet.spec, role).nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",  # the ranks that are left cannot go on without the others
                "leaderTemplate": born.pod,
                "workerTemplate": _build_follower(born.pod),
            },
        },
    }


def _build_follower(pod: Manifest) -> dict[str, Any]:
    """The pods beside the leader. Without a role, so that no router takes them for workers of their own."""
    metadata = pod["metadata"]
    marks = {name: value for name, value in metadata["labels"].items() if name != labels.ROLE}
    return {**pod, "metadata": {**metadata, "labels": marks}}
