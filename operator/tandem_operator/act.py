"""Carries out actions. No decisions here: one case per action."""

import logging
from typing import Protocol

from tandem_api import labels
from tandem_operator.errors import Conflict, NotFound, Rejected
from tandem_operator.kinds import POD, SECRET, WORKER_POOL, Kind, Manifest, kind_of
from tandem_operator.model import Action, Apply, CreatePool, Delete, Mark, Scale
from tandem_operator.resources.names import OPERATOR_MANAGER, SCALE_MANAGER
from tandem_operator.store import Store

_log = logging.getLogger(__name__)

_INVALID = 422  # the HTTP status of a manifest that fails validation


class Writes(Protocol):
    """The part of a cluster that acting needs."""

    async def apply(self, manifest: Manifest, manager: str, *, uid: str | None) -> Manifest: ...

    async def merge(self, manifest: Manifest, manager: str, *, uid: str) -> Manifest: ...

    async def create(self, manifest: Manifest, manager: str) -> Manifest: ...

    async def scale(self, kind: Kind, namespace: str, name: str, replicas: int, manager: str) -> None: ...

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> Manifest: ...


async def act(action: Action, cluster: Writes, store: Store) -> None:
    """Takes one action, and lets the store see the outcome before the watch brings it.

    Raises:
        ApiError: the API server refused, or did not answer.
        NotLeader: this replica may not write.
    """
    match action:
        case Apply(manifest, _, uid):
            live = await _apply(cluster, manifest, uid)
            if kind_of(manifest) != SECRET:  # fleets' Secrets are fetched by name, never held
                store.upsert(kind_of(manifest), live)
        case CreatePool(manifest, _):
            store.upsert(WORKER_POOL, await cluster.create(manifest, SCALE_MANAGER))
        case Mark():
            await _mark(action, cluster, store)
        case Scale(namespace, name, replicas, _, kind):
            await cluster.scale(kind, namespace, name, replicas, SCALE_MANAGER)
        case Delete():
            await _delete(action, cluster, store)


async def _apply(cluster: Writes, manifest: Manifest, uid: str | None) -> Manifest:
    try:
        return await cluster.apply(manifest, OPERATOR_MANAGER, uid=uid)
    except Rejected as error:
        if uid is None or error.status != _INVALID:
            raise
        # Another manager's list entries stay in a server-side apply, and can clash with ours (two ports of one name).
        return await cluster.merge(manifest, OPERATOR_MANAGER, uid=uid)


async def _mark(action: Mark, cluster: Writes, store: Store) -> None:
    notes = {labels.DELETION_COST_ANNOTATION: action.cost}
    metadata = {"name": action.name, "namespace": action.namespace, "annotations": notes}
    pod = {"apiVersion": POD.api_version, "kind": POD.name, "metadata": metadata}
    try:
        store.upsert(POD, await cluster.merge(pod, OPERATOR_MANAGER, uid=action.uid))
    except (NotFound, Conflict, Rejected) as error:  # a wish: the pool shrinks without it just as well
        _log.info("pod %s not marked: %s", action.name, error)


async def _delete(action: Delete, cluster: Writes, store: Store) -> None:
    try:
        answer = await cluster.delete(action.kind, action.namespace, action.name, action.uid)
    except NotFound:
        answer = {}
    if answer.get("kind") == action.kind.name:  # it stays until its finalizers are done
        store.upsert(action.kind, answer)
    else:
        store.remove(action.kind, {"metadata": {"namespace": action.namespace, "name": action.name, "uid": action.uid}})


def describe(action: Action) -> str:
    """One line for the log: what is done to what, and why."""
    match action:
        case Apply(manifest, reason, uid):
            verb = "update" if uid else "create"
            return f"{verb} {manifest['kind']} {manifest['metadata']['name']}: {reason}"
        case CreatePool(manifest, reason):
            return f"create WorkerPool {manifest['metadata']['name']}: {reason}"
        case Mark(_, name, _, cost, reason):
            return f"{'mark' if cost else 'unmark'} Pod {name}: {reason}"
        case Scale(_, name, replicas, reason, kind):
            return f"scale {kind.name} {name} to {replicas}: {reason}"
        case Delete(kind, _, name, _, reason):
            return f"delete {kind.name} {name}: {reason}"
