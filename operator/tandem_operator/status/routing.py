"""RouterReady, KVTransferReady, DisaggregationEffective: what the routers report."""

from tandem_api.conditions import ConditionType, Reason, Status
from tandem_api.router import FleetReport
from tandem_operator.model import Fleet, Snapshot
from tandem_operator.status.facts import Facts, Verdict


def judge_router(snapshot: Snapshot) -> Verdict:
    """Whether a router lists this generation of the fleet."""
    view, fleet = snapshot.routers, snapshot.fleet
    if not view.pods:
        text = "no router pod runs; install the chart with router.replicas of at least 1"
        return Verdict(Status.FALSE, Reason.ROUTER_UNREACHABLE, text)
    if not view.answering:
        text = f"none of {view.pods} routers answers on its internal listener; see their logs"
        return Verdict(Status.FALSE, Reason.ROUTER_UNREACHABLE, text)
    current = [r for r in view.reports if r.generation >= fleet.generation]
    if not current:
        text = f"no router lists generation {fleet.generation} yet; if this lasts, check which namespaces they watch"
        return Verdict(Status.FALSE, Reason.ROUTER_BEHIND, text)
    if any(report.name_conflict for report in current):
        return Verdict(Status.FALSE, Reason.MODEL_NAME_CONFLICT, _conflict(fleet))
    text = f"{len(current)} of {view.pods} routers list generation {fleet.generation}"
    return Verdict(Status.TRUE, Reason.ROUTER_LISTS_GENERATION, text)


def _conflict(fleet: Fleet) -> str:
    name = fleet.spec.served_name
    return (
        f"an older InferenceDeployment serves the name {name!r}: "
        f"set another model.servedName, or ask for {fleet.key.namespace}/{name}"
    )


def judge_kv_transfer(facts: Facts) -> Verdict:
    """Whether KV has moved between workers of this fleet, and how that goes."""
    if facts.snapshot.fleet.spec.prefill is None:
        return Verdict(Status.UNKNOWN, Reason.AGGREGATED, "without a prefill pool no KV is handed over")
    moved = sum(report.recent.kv_bytes for report in _reports(facts))
    failures = sum(report.recent.kv_failures for report in _reports(facts))
    if moved and (fallbacks := _fallbacks(facts)):
        text = (
            f"KV moves over tcp although kvTransfer.connector is {facts.snapshot.fleet.spec.kv_transfer.connector}: "
            f"{', '.join(fallbacks)}; use one image with one NCCL on GPUs for both roles, or set connector tcp"
        )
        return Verdict(Status.TRUE, Reason.KV_FELL_BACK, text)
    failing = next((report.kv_edges.failure for report in _reports(facts) if report.kv_edges.failing), None)
    if moved or (_is_proved(facts) and not failures):
        text = "KV moves from prefill to decode workers"
        return Verdict(Status.TRUE, Reason.KV_MOVED, f"{text}, but not {failing}" if failing else text)
    if failures:
        text = (
            "every KV transfer of the last minutes has failed; requests are served by local prefill. "
            "See tandem_worker_kv_failures_total"
        )
        return Verdict(Status.FALSE, Reason.KV_FAILING, text)
    if failing:
        return Verdict(Status.FALSE, Reason.KV_FAILING, f"no KV moves: {failing}")
    return _last_proof(facts, ConditionType.KV_TRANSFER_READY)


def judge_disaggregation(facts: Facts) -> Verdict:
    """Whether prefill workers really take work off decode workers; silent local prefill is the fault to catch."""
    if facts.snapshot.fleet.spec.prefill is None:
        return Verdict(Status.FALSE, Reason.AGGREGATED, "spec.prefill is not set: decode workers serve both phases")
    remote = sum(report.recent.remote_prefills for report in _reports(facts))
    local = sum(report.recent.local_prefills for report in _reports(facts))
    if remote > local:
        return Verdict(Status.TRUE, Reason.REMOTE_PREFILL_SEEN, "prompts are prefilled by prefill workers")
    if local:
        text = "half or more of the newest prompts fell back to decode workers; see PrefillReady and KVTransferReady"
        return Verdict(Status.FALSE, Reason.LOCAL_PREFILL_ONLY, text)
    if _is_proved(facts):
        return Verdict(Status.TRUE, Reason.REMOTE_PREFILL_SEEN, "a probe was prefilled by a prefill worker")
    return _last_proof(facts, ConditionType.DISAGGREGATION_EFFECTIVE)


def _is_proved(facts: Facts) -> bool:
    """A router has seen KV move between workers that run now."""
    return any(report.kv_edges.proved for report in _reports(facts))


def _last_proof(facts: Facts, kind: ConditionType) -> Verdict:
    """A router that restarts forgets its counters; a proof holds for the kv-revision that gave it."""
    previous = facts.previous(kind)
    same_revision = facts.snapshot.fleet.status.kv_revision == facts.rollout.serving_kv
    if previous is not None and previous.status == Status.TRUE.value and same_revision:
        return Verdict(Status.TRUE, Reason(previous.reason), previous.message)
    return Verdict(Status.UNKNOWN, Reason.KV_UNTESTED, "no request has tested it yet; send one through the router")


def _fallbacks(facts: Facts) -> list[str]:
    return sorted({reason for report in _reports(facts) for reason in report.kv_fallbacks})


def _reports(facts: Facts) -> tuple[FleetReport, ...]:
    return facts.snapshot.routers.reports
