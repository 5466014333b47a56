"""Deployment of one role and one template. Its template never changes: another template is another Deployment."""

from typing import Any

from tandem_api import labels
from tandem_operator.kinds import DEPLOYMENT, Manifest
from tandem_operator.model import Fleet, PoolRole
from tandem_operator.resources.kept_revision import RoleTemplate
from tandem_operator.resources.metadata import build_metadata, build_selector, owned_by_pool
from tandem_operator.resources.names import ENGINE_IMAGE_ANNOTATION, WORKER_IMAGE_ANNOTATION, deployment_name
from tandem_operator.resources.podspec import Images, build_pod_template
from tandem_operator.resources.revisions import kv_revision, template_revision, worker_role


def build_role_template(fleet: Fleet, role: PoolRole, images: Images) -> RoleTemplate:
    """The pods that the spec asks for now, as this operator renders them."""
    return RoleTemplate(
        template_revision=template_revision(fleet.spec, role),
        worker_role=worker_role(fleet.spec, role).value,
        engine_image=images.engine,
        worker_image=images.worker,
        pod=build_pod_template(fleet, role, images),
    )


def build_deployment(fleet: Fleet, role: PoolRole, pool: Manifest, born: RoleTemplate, replicas: int) -> Manifest:
    """The Deployment of a template, owned by the live WorkerPool `pool`."""
    metadata = build_workers_metadata(fleet, role, pool, born)
    selector = {**build_selector(fleet, role), labels.TEMPLATE_REVISION: born.template_revision}
    return {
        "apiVersion": DEPLOYMENT.api_version,
        "kind": DEPLOYMENT.name,
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector},
            "progressDeadlineSeconds": fleet.spec.rollout.progress_deadline_seconds,
            "revisionHistoryLimit": 0,
            "template": born.pod,
        },
    }


def build_workers_metadata(fleet: Fleet, role: PoolRole, pool: Manifest, born: RoleTemplate) -> dict[str, Any]:
    """Metadata of what runs the workers of one template: by it they are found again, with what they were born with."""
    revision = born.template_revision
    metadata = build_metadata(fleet, deployment_name(fleet.key.name, role, revision), owned_by_pool(pool), role)
    metadata["labels"] |= {
        labels.ROLE: born.worker_role,
        labels.KV_REVISION: kv_revision(fleet.spec),
        labels.TEMPLATE_REVISION: revision,
    }
    metadata["annotations"] = {
        ENGINE_IMAGE_ANNOTATION: born.engine_image,
        WORKER_IMAGE_ANNOTATION: born.worker_image,
    }
    return metadata
