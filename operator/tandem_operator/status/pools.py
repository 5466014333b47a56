"""PrefillReady and DecodeReady."""

from tandem_api.conditions import Reason, Status
from tandem_operator.model import PoolRole
from tandem_operator.status.facts import Facts, PoolFacts, Verdict


def judge_pool(facts: Facts, role: PoolRole) -> Verdict:
    """Whether the pool has all its workers, and if not, why not and what to do."""
    pool = facts.pools.get(role)
    if pool is None:
        return Verdict(Status.TRUE, Reason.NOT_CONFIGURED, f"spec.{role} is not set: decode workers serve both phases")
    if pool.desired == 0:
        return Verdict(Status.TRUE, Reason.SCALED_TO_ZERO, "the pool has no workers, as asked")
    if pool.is_ready:
        return Verdict(Status.TRUE, Reason.AVAILABLE, f"{pool.updated} of {pool.desired} workers are ready")
    return _not_ready(facts, pool)


def _not_ready(facts: Facts, pool: PoolFacts) -> Verdict:
    others = f"; {pool.ready} of an older template serve on" if pool.ready > pool.updated else ""
    count = f"{pool.updated} of {pool.desired} workers are ready{others}"
    if pool.cause is not None and (not pool.cause.is_usual or facts.is_stalling(pool.cause)):
        return Verdict(Status.FALSE, pool.cause.reason, f"{count}. {pool.cause.message}")
    previous = facts.previous(f"{pool.role.capitalize()}Ready")
    was_ready = previous is not None and previous.status == Status.TRUE.value and previous.reason == Reason.AVAILABLE
    fell = was_ready or (previous is not None and previous.reason == Reason.POOL_UNAVAILABLE)
    same_spec = previous is not None and previous.observed_generation == facts.snapshot.fleet.generation
    reason = Reason.POOL_UNAVAILABLE if fell and same_spec else Reason.POOL_STARTING
    return Verdict(Status.FALSE, reason, count)
