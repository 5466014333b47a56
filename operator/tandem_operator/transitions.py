"""Events for people, on transitions only (pure)."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

from tandem_api.conditions import ConditionType, Status
from tandem_api.v1alpha1 import Condition, InferenceDeploymentStatus
from tandem_operator.kinds import EVENT, INFERENCE_DEPLOYMENT, Manifest
from tandem_operator.model import Key

_TOLD = (
    ConditionType.READY,
    ConditionType.STALLED,
    ConditionType.PREFILL_READY,
    ConditionType.DECODE_READY,
    ConditionType.ROUTER_READY,
    ConditionType.DISAGGREGATION_EFFECTIVE,
    ConditionType.AUTOSCALER_ACTIVE,
    ConditionType.OBJECTIVES_MET,
)
_BAD_WHEN_TRUE = frozenset((ConditionType.STALLED,))


def changed_conditions(old: InferenceDeploymentStatus, new: InferenceDeploymentStatus) -> Iterator[Condition]:
    """Conditions whose status flipped, and Stalled when its reason changed. What is Unknown at birth is no news."""
    before = {condition.type: condition for condition in old.conditions}
    for condition in new.conditions:
        previous = before.get(condition.type)
        if condition.type not in _TOLD or (previous is None and condition.status != Status.TRUE.value):
            continue
        flipped = previous is None or previous.status != condition.status
        other_reason = previous is not None and previous.reason != condition.reason
        is_bad = (condition.type in _BAD_WHEN_TRUE) == (condition.status == Status.TRUE.value)
        if (flipped and not _is_good_news_of_a_fault(condition, previous)) or (other_reason and is_bad):
            yield condition


def _is_good_news_of_a_fault(condition: Condition, previous: Condition | None) -> bool:
    return condition.type in _BAD_WHEN_TRUE and condition.status == Status.FALSE.value and previous is None


def build_event(key: Key, uid: str, condition: Condition, now: datetime) -> Manifest:
    """A core/v1 Event about a condition of the fleet."""
    is_bad = (condition.type in _BAD_WHEN_TRUE) == (condition.status == Status.TRUE.value)
    message = f"{condition.type}={condition.status}: {condition.message}"
    return _build(key, uid, condition.reason, message, now, is_bad=is_bad)


def build_scaling_event(key: Key, uid: str, sentence: str, now: datetime, *, is_up: bool) -> Manifest:
    """A core/v1 Event about a pool that the autoscaler sized."""
    return _build(key, uid, "ScaledUp" if is_up else "ScaledDown", sentence, now, is_bad=False)


def _build(key: Key, uid: str, reason: str, message: str, now: datetime, *, is_bad: bool) -> Manifest:
    """Its name follows from its content, so that a repeated write is refused."""
    text = f"{uid}{reason}{message}{now.isoformat()}"
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.name,
        "metadata": {
            "name": f"{key.name}.{hashlib.sha256(text.encode()).hexdigest()[:16]}",
            "namespace": key.namespace,
        },
        "involvedObject": {
            "apiVersion": INFERENCE_DEPLOYMENT.api_version,
            "kind": INFERENCE_DEPLOYMENT.name,
            "name": key.name,
            "namespace": key.namespace,
            "uid": uid,
        },
        "type": "Warning" if is_bad else "Normal",
        "reason": reason,
        "message": message[:1024],
        "source": {"component": "tandem-operator"},
        "reportingComponent": "tandem.dev/operator",
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
