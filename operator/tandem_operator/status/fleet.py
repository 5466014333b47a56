"""Status of an InferenceDeployment and of its WorkerPools, as one value."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from tandem_api import labels
from tandem_api.conditions import ConditionType, Reason, Status
from tandem_api.v1alpha1 import (
    Condition,
    InferenceDeploymentStatus,
    PoolStatus,
    RevisionStatus,
    WorkerPoolStatus,
)
from tandem_operator.model import PoolRole, Problem, Snapshot
from tandem_operator.resources.metadata import build_selector
from tandem_operator.status.elsewhere import judge_elsewhere
from tandem_operator.status.facts import PATIENCE, Facts, Refusal, Verdict, gather_facts
from tandem_operator.status.merging import merge_conditions
from tandem_operator.status.pools import judge_pool
from tandem_operator.status.rollout import advance_rollout
from tandem_operator.status.routing import judge_disaggregation, judge_kv_transfer, judge_router
from tandem_operator.status.scaling import judge_autoscaler, judge_objectives, what_is_said
from tandem_operator.status.startup import measure_startup
from tandem_operator.status.summary import judge_ready, judge_reconciling, judge_stalled
from tandem_operator.views import of_pool, read_all


@dataclass(frozen=True)
class Report:
    """What to write, and when time alone may change it."""

    status: InferenceDeploymentStatus
    pools: Mapping[str, WorkerPoolStatus]  # role → status of the live WorkerPool
    look_again_at: datetime | None = None


def build_report(snapshot: Snapshot, now: datetime, refusal: Refusal | None = None) -> Report:
    """Statuses that tell the truth about a snapshot. `now` stamps the conditions that change."""
    if not snapshot.fleet.is_here:
        return _build_elsewhere_report(snapshot, now)
    facts = gather_facts(snapshot, now, refusal)
    verdicts = judge(facts)
    said = what_is_said(snapshot)
    progress = advance_rollout(snapshot, facts.rollout, now)
    status = InferenceDeploymentStatus(
        observed_generation=snapshot.fleet.generation,
        conditions=_conditions(snapshot, verdicts, now),
        endpoint=snapshot.defaults.endpoint,
        kv_revision=facts.rollout.serving_kv,
        pools=[_pool_status(facts, role) for role in facts.pools],
        revisions=_revisions(facts),
        objectives=said.objectives,
        last_decision=said.decision,
        region_demand=said.region_demand,
        autoscaler_memory=said.memory,
        rollout=progress.status,
        startup=measure_startup(snapshot),
        ready_text=_ready_text(facts),
    )
    pools = {role: _worker_pool_status(snapshot, role, live) for role, live in snapshot.pools.items()}
    ends = (_next_patience(facts), progress.look_again_at)
    return Report(status, pools, min(filter(None, ends), default=None))


def _build_elsewhere_report(snapshot: Snapshot, now: datetime) -> Report:
    said = what_is_said(snapshot)
    status = InferenceDeploymentStatus(
        observed_generation=snapshot.fleet.generation,
        conditions=_conditions(snapshot, judge_elsewhere(snapshot), now),
        endpoint=snapshot.defaults.endpoint,
        objectives=said.objectives,
        last_decision=said.decision,
        autoscaler_memory=said.memory,
    )
    return Report(status, {role: _worker_pool_status(snapshot, role, live) for role, live in snapshot.pools.items()})


def judge(facts: Facts) -> dict[ConditionType, Verdict]:
    """Every condition of the fleet."""
    parts = {
        ConditionType.PREFILL_READY: judge_pool(facts, "prefill"),
        ConditionType.DECODE_READY: judge_pool(facts, "decode"),
        ConditionType.ROUTER_READY: judge_router(facts.snapshot),
        ConditionType.KV_TRANSFER_READY: judge_kv_transfer(facts),
        ConditionType.DISAGGREGATION_EFFECTIVE: judge_disaggregation(facts),
        ConditionType.AUTOSCALER_ACTIVE: judge_autoscaler(facts),
    }
    if facts.snapshot.fleet.spec.objectives is not None:
        parts[ConditionType.OBJECTIVES_MET] = judge_objectives(facts)
    stalled = judge_stalled(facts)
    ready = judge_ready(facts, stalled, parts)
    summary = {
        ConditionType.READY: ready,
        ConditionType.RECONCILING: judge_reconciling(ready, stalled),
        ConditionType.STALLED: stalled,
    }
    return summary | parts


def build_unreadable_status(
    previous: InferenceDeploymentStatus, generation: int, problem: Problem, now: datetime
) -> InferenceDeploymentStatus:
    """Status of an object whose spec this operator cannot read; everything else stays as it was."""
    stalled = Verdict(Status.TRUE, Reason.INVALID_SPEC, str(problem))
    verdicts = {
        ConditionType.READY: Verdict(Status.FALSE, Reason.INVALID_SPEC, str(problem)),
        ConditionType.RECONCILING: Verdict(Status.FALSE, Reason.INVALID_SPEC, "waiting for a spec that can be read"),
        ConditionType.STALLED: stalled,
    }
    conditions = merge_conditions(previous.conditions, verdicts, generation, now)
    kept = [c for c in previous.conditions if c.type not in verdicts]
    return previous.model_copy(update={"observed_generation": generation, "conditions": [*conditions, *kept]})


def _conditions(snapshot: Snapshot, verdicts: Mapping[ConditionType, Verdict], now: datetime) -> list[Condition]:
    return merge_conditions(snapshot.fleet.status.conditions, verdicts, snapshot.fleet.generation, now)


def _pool_status(facts: Facts, role: PoolRole) -> PoolStatus:
    pool, target = facts.pools[role], facts.rollout.targets[role]
    revision = target.template_revision if target else None
    return PoolStatus(
        role=role, desired=pool.desired, ready=pool.ready, updated=pool.updated, template_revision=revision
    )


def _revisions(facts: Facts) -> list[RevisionStatus]:
    """Every kv-revision that has workers, the wanted one first, with its share of the traffic."""
    rollout = facts.rollout
    return [_revision(facts, kv) for kv in sorted(rollout.weights, key=lambda kv: (kv != rollout.target_kv, kv))]


def _revision(facts: Facts, kv: str) -> RevisionStatus:
    percent = facts.rollout.weights[kv]
    is_whole = all(pool.is_ready for pool in facts.pools.values())
    starting = kv == facts.rollout.target_kv and (not percent or not (is_whole or facts.rollout.old))
    phase = "Starting" if starting else "Serving" if percent else "Draining"
    return RevisionStatus(kv_revision=kv, traffic_percent=percent, phase=phase)


def _ready_text(facts: Facts) -> str:
    return " ".join(f"{role[0].upper()} {pool.ready}/{pool.desired}" for role, pool in facts.pools.items())


def _worker_pool_status(snapshot: Snapshot, role: str, pool: Mapping[str, dict[str, int]]) -> WorkerPoolStatus:
    workers = of_pool(read_all(snapshot.deployments), role)
    selector = build_selector(snapshot.fleet) | {labels.POOL: role}
    return WorkerPoolStatus(
        observed_generation=pool["metadata"]["generation"],
        replicas=sum(w.total for w in workers),
        ready_replicas=sum(w.ready for w in workers),
        selector=",".join(f"{key}={value}" for key, value in sorted(selector.items())),
    )


def _next_patience(facts: Facts) -> datetime | None:
    """When a cause that is borne with now will be called Stalled."""
    causes = (pool.cause for pool in facts.pools.values())
    ends = [cause.since + PATIENCE for cause in causes if cause and cause.since]
    return min((end for end in ends if end > facts.now), default=None)
