"""Deployment of one role and one template. Its template never changes: another template is another Deployment."""

from tandem_api import labels
from tandem_operator.kinds import DEPLOYMENT, Manifest
from tandem_operator.model import Fleet, PoolRole
from tandem_operator.resources.metadata import build_metadata, build_selector, owned_by_pool
from tandem_operator.resources.names import (
    ENGINE_IMAGE_ANNOTATION,
    RENDERED_ANNOTATION,
    WORKER_IMAGE_ANNOTATION,
    deployment_name,
)
from tandem_operator.resources.podspec import Images, build_pod_template
from tandem_operator.resources.revisions import digest, kv_revision, template_revision, worker_role


def build_deployment(fleet: Fleet, role: PoolRole, pool: Manifest, images: Images, replicas: int) -> Manifest:
    """The Deployment that the spec asks for now, owned by the live WorkerPool `pool`."""
    revision = template_revision(fleet.spec, role)
    template = build_pod_template(fleet, role, images)
    metadata = build_metadata(fleet, deployment_name(fleet.key.name, role, revision), owned_by_pool(pool), role)
    metadata["labels"] |= {
        labels.ROLE: worker_role(fleet.spec, role).value,
        labels.KV_REVISION: kv_revision(fleet.spec),
        labels.TEMPLATE_REVISION: revision,
    }
    metadata["annotations"] = {
        RENDERED_ANNOTATION: digest(template),
        ENGINE_IMAGE_ANNOTATION: images.engine,
        WORKER_IMAGE_ANNOTATION: images.worker,
    }
    return {
        "apiVersion": DEPLOYMENT.api_version,
        "kind": DEPLOYMENT.name,
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {**build_selector(fleet, role), labels.TEMPLATE_REVISION: revision}},
            "progressDeadlineSeconds": fleet.spec.rollout.progress_deadline_seconds,
            "revisionHistoryLimit": 0,
            "template": template,
        },
    }
