"""AutoscalerActive and ObjectivesMet, from what the autoscaler says."""

from tandem_api.conditions import Reason, Status
from tandem_api.v1alpha1 import DecisionStatus, InferenceDeploymentSpec, LatencyStatus, PoolDecisionStatus
from tandem_core.targets import PERCENTILES
from tandem_operator.autoscale.configure import is_decided, is_watched
from tandem_operator.autoscale.scaler import Said
from tandem_operator.model import Snapshot
from tandem_operator.status.facts import Facts, Verdict

ENOUGH_REQUESTS = 20  # fewer say little of a percentile


def what_is_said(snapshot: Snapshot) -> Said:
    """What the autoscaler says; before its first round under this leader, what the last one said."""
    fleet = snapshot.fleet
    if not is_watched(fleet.spec):
        return Said()
    if snapshot.scaling is not None:
        return snapshot.scaling
    status = fleet.status
    return Said(status.objectives, status.last_decision, status.autoscaler_memory, status.region_demand)


def judge_autoscaler(facts: Facts) -> Verdict:
    """Whether sizes follow the objectives, and if not, who decides or what is missing."""
    spec = facts.snapshot.fleet.spec
    if not is_decided(spec):
        return _other_mode(spec)
    decision = what_is_said(facts.snapshot).decision
    if decision is None:
        return Verdict(Status.UNKNOWN, Reason.NO_DATA, "the first decision has yet to be made")
    if decision.hold is not None:
        return Verdict(Status.FALSE, Reason(decision.hold.reason), decision.hold.message)
    if spec.autoscaling.mode != "Objectives" or spec.autoscaling.advisory:
        text = f"advisory only: would set {_sizes(decision)}; set autoscaling.mode to Objectives and advisory to false"
        return Verdict(Status.FALSE, Reason.ADVISORY, text)
    if spec.autoscaling.paused:
        text = f"autoscaling.paused keeps the sizes; needed: {_needs(decision)}"
        return Verdict(Status.FALSE, Reason.PAUSED, text)
    return Verdict(Status.TRUE, Reason.DECIDING, _sizes(decision))


def _other_mode(spec: InferenceDeploymentSpec) -> Verdict:
    if spec.autoscaling.mode == "External":
        text = "whoever writes the scale of the WorkerPools decides their size"
        return Verdict(Status.UNKNOWN, Reason.EXTERNAL, text)
    return Verdict(Status.FALSE, Reason.FIXED, "spec.prefill.replicas and spec.decode.replicas decide")


def _sizes(decision: DecisionStatus) -> str:
    return f"prefill {_bound(decision.prefill)}, decode {_bound(decision.decode)}"


def _bound(pool: PoolDecisionStatus) -> str:
    return f"{pool.workers} (set by {pool.bound})"


def _needs(decision: DecisionStatus) -> str:
    return f"prefill {decision.prefill.needed}, decode {decision.decode.needed}"


def judge_objectives(facts: Facts) -> Verdict:
    """Whether the requests of the last minutes met their targets as often as the percentiles ask."""
    said = what_is_said(facts.snapshot).objectives
    if said is None or said.requests < ENOUGH_REQUESTS:
        count = 0 if said is None else said.requests
        text = (
            f"{count} requests within the last {said.window_seconds if said else 300} s; {ENOUGH_REQUESTS} are needed"
        )
        return Verdict(Status.UNKNOWN, Reason.NOT_MEASURED, text)
    latencies = [(name, one) for name, one in (("TTFT", said.ttft), ("TPOT", said.tpot)) if one is not None]
    missed = [_tell(name, one) for name, one in latencies if _is_missed(one)]
    if missed:
        return Verdict(Status.FALSE, Reason.OBJECTIVES_MISSED, "; ".join(missed))
    return Verdict(Status.TRUE, Reason.OBJECTIVES_MET, "; ".join(_tell(name, one) for name, one in latencies))


def _is_missed(one: LatencyStatus) -> bool:
    return one.attainment is not None and one.attainment < PERCENTILES[one.percentile]


def _tell(name: str, one: LatencyStatus) -> str:
    share = "" if one.attainment is None else f", met by {one.attainment:.1%} of the requests"
    seconds = "not seen" if one.seconds is None else f"{one.seconds:g} s"
    return f"{name} {one.percentile} {seconds} of {one.target_seconds:g} s{share}"
