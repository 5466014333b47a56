"""What the autoscaler says, as conditions and as status that survives a leader."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from unit.operator.demand_routers import SCALED
from unit.operator.fleets import make_fleet, make_spec
from unit.operator.world import World

from tandem_api.v1alpha1 import (
    DecisionStatus,
    HoldStatus,
    InferenceDeploymentStatus,
    LatencyStatus,
    ObjectivesStatus,
    PoolDecisionStatus,
)
from tandem_operator.autoscale.scaler import Said
from tandem_operator.status.fleet import build_report
from tandem_operator.transitions import changed_conditions

DECISION = DecisionStatus(
    time="2026-01-01T00:00:00Z",
    acted=True,
    prefill=PoolDecisionStatus(workers=4, needed=6, bound="max", terms={"workRate": 3.2}),
    decode=PoolDecisionStatus(workers=2, needed=2, bound="need"),
)
HELD = DECISION.model_copy(update={"hold": HoldStatus(reason="StaleData", message="the newest demand is 40 s old")})


def latency(attainment: float, seconds: float = 1.0) -> LatencyStatus:
    return LatencyStatus(percentile="p99", target_seconds=2, seconds=seconds, attainment=attainment)


def measured(ttft: float, tpot: float = 1.0, requests: int = 1000) -> Said:
    return Said(
        ObjectivesStatus(window_seconds=300, requests=requests, ttft=latency(ttft), tpot=latency(tpot)), DECISION
    )


def condition(said: Said | None, kind: str, **spec: Any) -> tuple[str, str, str]:
    world = World(make_fleet(make_spec(**{**SCALED, **spec})))
    status = build_report(replace(world.snapshot(), scaling=said), world.now).status
    found = next(c for c in status.conditions if c.type == kind)
    return found.status, found.reason, found.message


@pytest.mark.parametrize(
    ("said", "status", "reason"),
    [
        (measured(0.995), "True", "WithinObjectives"),
        (measured(0.985), "False", "ObjectivesMissed"),
        (measured(1.0, tpot=0.5), "False", "ObjectivesMissed"),
        (measured(0.5, requests=19), "Unknown", "NotMeasured"),
        (None, "Unknown", "NotMeasured"),
    ],
)
def test_objectives_are_judged_by_the_share_that_met_its_target(said: Said | None, status: str, reason: str) -> None:
    assert condition(said, "ObjectivesMet")[:2] == (status, reason)


def test_a_missed_objective_tells_percentile_target_and_share() -> None:
    text = condition(measured(0.9), "ObjectivesMet")[2]
    assert text == "TTFT p99 1 s of 2 s, met by 90.0% of the requests"


@pytest.mark.parametrize(
    ("autoscaling", "decision", "status", "reason", "text"),
    [
        ({"mode": "Objectives"}, DECISION, "True", "Deciding", "prefill 4 (set by max), decode 2 (set by need)"),
        ({"mode": "Objectives"}, HELD, "False", "StaleData", "the newest demand is 40 s old"),
        ({"mode": "Objectives"}, None, "Unknown", "NoData", "yet to be made"),
        ({"mode": "Objectives", "advisory": True}, DECISION, "False", "Advisory", "would set prefill 4"),
        ({"mode": "External", "advisory": True}, DECISION, "False", "Advisory", "would set prefill 4"),
        ({"mode": "Objectives", "paused": True}, DECISION, "False", "Paused", "needed: prefill 6, decode 2"),
        ({"mode": "External"}, None, "Unknown", "External", "whoever"),
        ({"mode": "Fixed"}, None, "False", "Fixed", "replicas decide"),
    ],
)
def test_the_condition_says_who_decides_and_what(
    autoscaling: dict[str, Any], decision: DecisionStatus | None, status: str, reason: str, text: str
) -> None:
    found = condition(Said(decision=decision), "AutoscalerActive", autoscaling=autoscaling)
    assert found[:2] == (status, reason)
    assert text in found[2]


def test_what_the_last_leader_said_stays_until_the_new_one_has_decided() -> None:
    """A reconciliation may come before the first round of the autoscaler."""
    status = InferenceDeploymentStatus(last_decision=DECISION, objectives=measured(1.0).objectives)
    world = World(make_fleet(make_spec(**SCALED), status=status))
    kept = build_report(world.snapshot(), world.now).status
    assert (kept.last_decision, kept.objectives) == (DECISION, status.objectives)


def test_without_objectives_nothing_of_it_stays() -> None:
    status = InferenceDeploymentStatus(last_decision=DECISION, objectives=measured(1.0).objectives)
    world = World(make_fleet(make_spec(), status=status))
    left = build_report(world.snapshot(), world.now).status
    assert (left.last_decision, left.objectives, left.autoscaler_memory) == (None, None, None)


def test_a_flip_is_told_as_an_event() -> None:
    world = World(make_fleet(make_spec(**SCALED)))
    before = build_report(replace(world.snapshot(), scaling=Said(decision=DECISION)), world.now).status
    after = build_report(replace(world.snapshot(), scaling=Said(decision=HELD)), world.now).status
    assert [c.reason for c in changed_conditions(before, after)] == ["StaleData"]
