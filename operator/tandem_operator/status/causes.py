"""Why workers do not become ready: pod statuses → one typed cause with the fix."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tandem_api.conditions import Reason
from tandem_operator.kinds import Manifest
from tandem_operator.resources.weights import FETCHER_PREFIX
from tandem_operator.views import Workers, parse_time

_IMAGE_REASONS = frozenset(("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"))
_CREATE_REASONS = frozenset(("CreateContainerError", "RunContainerError"))
# The worker's last message, or the end of its log where the node gives it no file to leave one in.
_WORKER_MESSAGE = re.compile(
    rf"(?:\A|^\S+ \S+ tandem-worker ERROR )({'|'.join(Reason)}): (.+)", re.DOTALL | re.MULTILINE
)
_INSUFFICIENT = re.compile(r"Insufficient ([^\s,.]+(?:\.[a-z]+)*/[^\s,.]+)")
_MESSAGE_LENGTH = 600
_MOUNTED = {
    "secret": ("Secret", "secretName"),
    "configMap": ("ConfigMap", "name"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
    "image": ("image", "reference"),
}

# The worker itself said what is wrong with its orders; waiting does not mend that.
_FINAL = frozenset((Reason.CONFIG_INVALID, Reason.MODEL_UNAVAILABLE, Reason.KV_INCOMPATIBLE))


@dataclass(frozen=True)
class Cause:
    """One reason why pods are not ready.

    `since` is None when it needs no patience. What `is_usual` happens to every pod for a moment, and is a fault only
    once patience has ended.
    """

    reason: Reason
    message: str
    since: datetime | None
    pods: int = 1
    is_usual: bool = False


def find_cause(workers: Workers | None, pods: Sequence[Manifest]) -> Cause | None:
    """The cause that most pods of a template share; a pod that Kubernetes refuses to make comes first."""
    if workers is not None and workers.failure:
        text = f"Kubernetes refuses the pods: {workers.failure}"
        return Cause(Reason.POD_REJECTED, text[:_MESSAGE_LENGTH], None)
    causes = [cause for pod in pods if not _is_leaving(pod) for cause in _causes_of(pod)]
    if not causes:
        return None
    causes = [cause for cause in causes if not cause.is_usual] or causes
    by_reason = {reason: [c for c in causes if c.reason == reason] for reason in {c.reason for c in causes}}
    same = max(by_reason.values(), key=lambda group: (len(group), group[0].reason))
    oldest = min((c.since for c in same if c.since), default=None)
    final = any(c.since is None for c in same)
    message = _count(len(same), same[0].message)
    return Cause(same[0].reason, message, None if final else oldest, len(same), same[0].is_usual)


def _count(pods: int, message: str) -> str:
    return f"{pods} pod{'s' if pods > 1 else ''}: {message}"[:_MESSAGE_LENGTH]


def _is_leaving(pod: Manifest) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _causes_of(pod: Manifest) -> Iterator[Cause]:
    """At most one cause of a pod, the most telling first."""
    born = parse_time(pod["metadata"].get("creationTimestamp"))
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield _unscheduled(condition.get("message", ""), born)
            return
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        cause = _container_cause(container, born)
        if cause is not None:
            yield cause
            return
    is_pending = status.get("phase", "Pending") == "Pending"
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodReadyToStartContainers" and condition["status"] == "False" and is_pending:
            yield _unmounted(pod, parse_time(condition.get("lastTransitionTime")) or born)
            return


def _unmounted(pod: Manifest, since: datetime | None) -> Cause:
    """Which volume is missing stands in an Event only, so all that can be missing are named."""
    volumes = pod.get("spec", {}).get("volumes") or ()
    sources = [f"{kind} {one[part][key]}" for one in volumes for part, (kind, key) in _MOUNTED.items() if part in one]
    text = f"the pod's volumes cannot be mounted; see that these exist in the fleet's namespace: {', '.join(sources)}"
    return Cause(Reason.VOLUME_UNAVAILABLE, text, since, is_usual=True)


def _unscheduled(message: str, born: datetime | None) -> Cause:
    lacking = _INSUFFICIENT.search(message)
    if lacking:
        text = f"no node has enough free {lacking.group(1)}; add nodes, lower replicas, or set resources.gpuResource"
        return Cause(Reason.INSUFFICIENT_GPU, text, born)
    text = f"cannot be scheduled: {message}; check podTemplate.nodeSelector and tolerations against the nodes"
    return Cause(Reason.UNSCHEDULABLE, text, born)


def _container_cause(container: dict[str, Any], born: datetime | None) -> Cause | None:
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE_REASONS:
        text = (
            f"image {container.get('image')} cannot be pulled ({message or reason}); "
            "correct engine.image or workerImage, or add podTemplate.imagePullSecrets"
        )
        return Cause(Reason.IMAGE_UNAVAILABLE, text, born)
    if reason == "CreateContainerConfigError":
        text = f"{message or 'a Secret or ConfigMap is missing'}; create it in the namespace of the fleet"
        return Cause(Reason.SECRET_MISSING, text, born)
    if reason in _CREATE_REASONS:
        return Cause(Reason.WORKER_CRASHING, f"the container cannot be created: {message or reason}", born)
    return _crash(container, state, born)


def _crash(container: dict[str, Any], state: dict[str, Any], born: datetime | None) -> Cause | None:
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    if container.get("ready") or not ended.get("exitCode"):
        return None
    text = (ended.get("message") or "").strip()
    said = _WORKER_MESSAGE.search(text)
    if said:
        reason = Reason(said.group(1))
        return Cause(reason, said.group(2).strip(), None if reason in _FINAL else born)
    last_line = text.splitlines()[-1] if text else "see kubectl logs --previous"
    ending = "ran out of memory; raise resources.memory" if ended.get("reason") == "OOMKilled" else last_line
    if container["name"].startswith(FETCHER_PREFIX):
        text = f"weights cannot be fetched ({ending}); check model.source and model.objectStore"
        return Cause(Reason.MODEL_UNAVAILABLE, text, born)
    exits = f"container {container['name']} ends with exit code {ended['exitCode']}"
    return Cause(Reason.WORKER_CRASHING, f"{exits} after {container.get('restartCount', 0)} restarts: {ending}", born)
