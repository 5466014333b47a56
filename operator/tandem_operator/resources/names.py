"""Every name that the operator gives, and the annotations in which it remembers what it rendered."""

from tandem_operator.model import Key, PoolRole

OPERATOR_MANAGER = "tandem-operator"
SCALE_MANAGER = "tandem-scale"  # owns WorkerPool.spec.replicas and nothing else, so that scaling never fights applying

ENGINE_IMAGE_ANNOTATION = "tandem.dev/engine-image"
WORKER_IMAGE_ANNOTATION = "tandem.dev/worker-image"


def pool_name(fleet: str, role: PoolRole) -> str:
    """WorkerPool, headless Service and PodDisruptionBudget of one role."""
    return f"{fleet}-{role}"


def deployment_name(fleet: str, role: PoolRole, template_revision: str) -> str:
    """Deployment of one role and template."""
    return f"{fleet}-{role}-{template_revision}"


def revision_name(fleet: str, revision: str) -> str:
    """ControllerRevision that keeps the templates of one revision."""
    return f"{fleet}-{revision}"


def policy_name(fleet: str) -> str:
    """NetworkPolicy around all workers of a fleet."""
    return f"{fleet}-workers"


def fleet_id(key: Key) -> str:
    """How workers and KV messages name their fleet."""
    return str(key)
