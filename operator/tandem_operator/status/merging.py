"""Conditions from verdicts, with the memory that a condition has."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from tandem_api.conditions import ConditionType, RegionConditionType
from tandem_api.v1alpha1 import Condition
from tandem_operator.status.facts import Verdict

Verdicts = Mapping[ConditionType, Verdict] | Mapping[RegionConditionType, Verdict]


def merge_conditions(
    previous: Sequence[Condition], verdicts: Verdicts, generation: int, now: datetime
) -> list[Condition]:
    """Conditions in the order of the verdicts; the transition time moves only when the status flips."""
    before = {condition.type: condition for condition in previous}
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def build(kind: str, verdict: Verdict) -> Condition:
        old = before.get(kind)
        same = old is not None and old.status == verdict.status
        return Condition(
            type=kind,
            status=verdict.status.value,
            observed_generation=generation,
            last_transition_time=old.last_transition_time if same and old else stamp,
            reason=verdict.reason,
            message=verdict.message,
        )

    return [build(kind, verdict) for kind, verdict in verdicts.items()]
