"""ControllerRevisions of a fleet: born before their workers, renumbered when wanted again, pruned."""

from collections.abc import Iterator, Mapping, Sequence

from tandem_operator.kinds import CONTROLLER_REVISION
from tandem_operator.model import Apply, Delete, PoolRole, Snapshot
from tandem_operator.plan.images import decide_images
from tandem_operator.plan.wanted import Wanted
from tandem_operator.resources.deployment import build_role_template
from tandem_operator.resources.kept_revision import (
    Kept,
    RoleTemplate,
    build_kept_revision,
    read_kept_revision,
    renumber,
)
from tandem_operator.resources.names import ENGINE_IMAGE_ANNOTATION, WORKER_IMAGE_ANNOTATION
from tandem_operator.resources.revisions import kv_revision
from tandem_operator.views import Workers, pod_of

KEPT = 5


def read_history(snapshot: Snapshot) -> tuple[Kept, ...]:
    """All kept revisions, the newest first."""
    return tuple(sorted(map(read_kept_revision, snapshot.revisions), key=lambda one: (-one.number, one.name)))


def decide_templates(
    snapshot: Snapshot, wanted: Wanted, history: Sequence[Kept], workers: Sequence[Workers]
) -> dict[PoolRole, RoleTemplate]:
    """Pods of the wanted revision, per role: as they were born, where that is known; else rendered now.

    An upgraded operator renders otherwise, and no worker restarts for that: the name of a template comes from what the
    user wrote, and what once got that name stays.
    """
    if wanted.kept is not None:
        return {role: wanted.kept.templates[role] for role in wanted.fleet.pool_roles()}
    images = decide_images(wanted.fleet.spec, kv_revision(wanted.fleet.spec), workers, snapshot.defaults)
    rendered = {role: build_role_template(wanted.fleet, role, images) for role in wanted.fleet.pool_roles()}
    known = _known_templates(history, workers)
    return {role: known.get(template.template_revision, template) for role, template in rendered.items()}


def plan_history(
    snapshot: Snapshot,
    wanted: Wanted,
    history: Sequence[Kept],
    templates: Mapping[PoolRole, RoleTemplate],
    workers: Sequence[Workers],
) -> Iterator[Apply | Delete]:
    """The wanted revision is kept, under the highest number; the oldest that nobody needs go."""
    newest = history[0].number if history else 0
    if wanted.kept is None:
        manifest = build_kept_revision(wanted.fleet, wanted.revision, newest + 1, templates)
        yield Apply(manifest, f"revision {wanted.revision} is new")
    elif wanted.kept.number < newest:
        manifest = renumber(wanted.fleet, wanted.kept, newest + 1)
        yield Apply(manifest, f"revision {wanted.revision} is wanted again", wanted.kept.uid)
    yield from _plan_pruning(snapshot, wanted, history, workers)


def _plan_pruning(
    snapshot: Snapshot, wanted: Wanted, history: Sequence[Kept], workers: Sequence[Workers]
) -> Iterator[Delete]:
    status = snapshot.fleet.status.rollout
    live = {w.template_revision for w in workers}
    needed = {wanted.revision, status.stable if status else None, snapshot.fleet.spec.rollout.pin}
    others = [kept for kept in history if kept.revision != wanted.revision]
    for kept in others[KEPT - 1 :]:
        is_live = any(template.template_revision in live for template in kept.templates.values())
        if kept.revision not in needed and not is_live:
            namespace = snapshot.fleet.key.namespace
            yield Delete(CONTROLLER_REVISION, namespace, kept.name, kept.uid, f"the newest {KEPT} revisions are kept")


def _known_templates(history: Sequence[Kept], workers: Sequence[Workers]) -> dict[str, RoleTemplate]:
    """Template revision → its pods, from what is kept, else from what lives."""
    lived = {w.template_revision: _adopt(w) for w in workers}
    kept = {t.template_revision: t for one in reversed(history) for t in one.templates.values()}
    return lived | kept


def _adopt(workers: Workers) -> RoleTemplate:
    recorded = workers.manifest["metadata"].get("annotations") or {}
    return RoleTemplate(
        template_revision=workers.template_revision,
        worker_role=workers.role,
        engine_image=recorded.get(ENGINE_IMAGE_ANNOTATION, ""),
        worker_image=recorded.get(WORKER_IMAGE_ANNOTATION, ""),
        pod=pod_of(workers.manifest),
    )
