"""Which share of the requests each kv-revision gets."""

from collections.abc import Mapping
from fractions import Fraction
from math import floor

from tandem_operator.plan.pace import WHOLE


def decide_weights(capacities: Mapping[str, Fraction], target: str, goal: Fraction, told: str | None) -> dict[str, int]:
    """Whole percents that add up to 100, by kv-revision.

    The wanted revision gets what the step allows and its scarcer role can carry, the old ones share the rest by what
    they can carry. What is left by rounding, or by nobody being ready, stays with the revision that had most.

    Args:
        capacities: share of the fleet that the ready pairs of each revision with workers can carry, 0 to 1.
        goal: most that the wanted revision may get now.
        told: the revision that had most of the traffic until now.
    """
    olds = {kv: capacity for kv, capacity in sorted(capacities.items()) if kv != target}
    if not olds:
        return {target: 100}
    new = floor(100 * min(goal, capacities.get(target, Fraction(0)), WHOLE))
    base = told if told in olds else max(olds, key=lambda kv: olds[kv])
    total = sum(olds.values(), Fraction(0))
    weights = {kv: floor((100 - new) * capacity / total) if total else 0 for kv, capacity in olds.items()}
    weights[base] += 100 - new - sum(weights.values())
    return weights | {target: new}
