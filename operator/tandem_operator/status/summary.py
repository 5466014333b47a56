"""Ready, Reconciling and Stalled: exactly one of them is true, and says what is going on."""

from collections.abc import Callable, Iterator, Mapping

from tandem_api.conditions import ConditionType, Reason, Status
from tandem_operator.model import POOL_ROLES
from tandem_operator.status.facts import Facts, Verdict

Verdicts = Mapping[ConditionType, Verdict]


def judge_stalled(facts: Facts) -> Verdict:
    """Whether somebody has to do something before the fleet can become what the spec says."""
    for check in _STALLS:
        verdict = check(facts)
        if verdict is not None:
            return verdict
    return Verdict(Status.FALSE, Reason.PROGRESSING, "nothing stands in the way")


def judge_ready(facts: Facts, stalled: Verdict, parts: Verdicts) -> Verdict:
    """True when what the spec asks for is what serves. Unknown while something older serves on."""
    if facts.problem is not None or stalled.status == Status.TRUE:
        return _not_yet(facts, stalled.reason, stalled.message)
    if facts.is_paused:
        return _not_yet(facts, Reason.PAUSED, "the change waits: set rollout.paused to false")
    for verdict in _failing(parts):
        return _not_yet(facts, verdict.reason, verdict.message)
    if not facts.rollout.is_done:
        return _not_yet(facts, Reason.PROGRESSING, "the last workers of an older template are leaving")
    if all(pool.desired == 0 for pool in facts.pools.values()):
        return Verdict(Status.TRUE, Reason.SCALED_TO_ZERO, "the fleet has no workers, as asked")
    return Verdict(Status.TRUE, Reason.AVAILABLE, "all workers are ready and a router serves the model")


def judge_reconciling(ready: Verdict, stalled: Verdict) -> Verdict:
    """Whether the operator is still at work."""
    if ready.status == Status.TRUE:
        return Verdict(Status.FALSE, Reason.SETTLED, "the fleet is what the spec says")
    if stalled.status == Status.TRUE:
        return Verdict(Status.FALSE, stalled.reason, "waiting for somebody to mend what Stalled says")
    return Verdict(Status.TRUE, ready.reason if ready.reason == Reason.PAUSED else Reason.PROGRESSING, ready.message)


def _failing(parts: Verdicts) -> Iterator[Verdict]:
    order = (ConditionType.PREFILL_READY, ConditionType.DECODE_READY, ConditionType.ROUTER_READY)
    return (parts[kind] for kind in order if parts[kind].status != Status.TRUE)


def _not_yet(facts: Facts, reason: Reason, message: str) -> Verdict:
    if facts.serves_old and facts.rollout.old:
        return Verdict(Status.UNKNOWN, reason, f"{message}; an older template serves on")
    return Verdict(Status.FALSE, reason, message)


def _invalid(facts: Facts) -> Verdict | None:
    return Verdict(Status.TRUE, Reason.INVALID_SPEC, str(facts.problem)) if facts.problem else None


def _refused(facts: Facts) -> Verdict | None:
    return Verdict(Status.TRUE, facts.refusal.reason, facts.refusal.message) if facts.refusal else None


def _cause(facts: Facts) -> Verdict | None:
    for role in POOL_ROLES:
        pool = facts.pools.get(role)
        if pool and pool.cause and facts.is_stalling(pool.cause):
            return Verdict(Status.TRUE, pool.cause.reason, f"{role}: {pool.cause.message}")
    return None


def _overdue(facts: Facts) -> Verdict | None:
    for role in POOL_ROLES:
        pool = facts.pools.get(role)
        if pool and pool.is_overdue and not pool.is_ready:
            limit = facts.snapshot.fleet.spec.rollout.progress_deadline_seconds
            text = f"{role}: no progress for {limit} s (rollout.progressDeadlineSeconds); see the logs of its pods"
            return Verdict(Status.TRUE, Reason.PROGRESS_DEADLINE_EXCEEDED, text)
    return None


def _taken_back(facts: Facts) -> Verdict | None:
    rejected = facts.rollout.wanted.rejected
    if rejected is None or facts.rollout.wanted.source != "rejection":
        return None
    text = (
        f"revision {rejected.revision} was taken back: {rejected.message}. Revision {facts.rollout.wanted.revision} "
        "serves; correct the spec, or change rollout.retry to try it again"
    )
    return Verdict(Status.TRUE, Reason.ROLLED_BACK, text)


def _stuck(facts: Facts) -> Verdict | None:
    if not facts.rollout.is_stuck:
        return None
    text = (
        "rollout.maxSurge leaves no room for a new worker, and no old one may go before it serves: set maxSurge to 1 "
        "or more, or rollout.strategy to Recreate"
    )
    return Verdict(Status.TRUE, Reason.ROLLOUT_BLOCKED, text)


_STALLS: tuple[Callable[[Facts], Verdict | None], ...] = (_invalid, _refused, _cause, _overdue, _stuck, _taken_back)
