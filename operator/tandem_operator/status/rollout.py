"""status.rollout: what one reconciliation of a rollout hands to the next."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from tandem_api.v1alpha1 import Rejection, RolloutStatus
from tandem_api.v1alpha1 import Rollout as RolloutSpec
from tandem_operator.model import PoolRole, Snapshot
from tandem_operator.plan.gate import Tally, find_breach, tally
from tandem_operator.plan.pace import WHOLE
from tandem_operator.plan.rollout import Rollout
from tandem_operator.views import of_pool, parse_time

_WATCH = timedelta(seconds=5)  # how often a step that is on trial is looked at
Phase = Literal["Progressing", "Holding", "Paused", "RollingBack", "RolledBack", "Complete"]


@dataclass(frozen=True)
class Progress:
    """The next status.rollout, and when time alone may change it."""

    status: RolloutStatus
    look_again_at: datetime | None = None


def advance_rollout(snapshot: Snapshot, rollout: Rollout, now: datetime) -> Progress:
    """One step of the state machine. Everything but the step, the stable revision and a rejection is read anew."""
    memory = _remember(snapshot, rollout)
    if rollout.is_complete:
        phase: Phase = "RolledBack" if memory.rejected and rollout.wanted.source == "rejection" else "Complete"
        stable = rollout.wanted.revision
        return Progress(memory.model_copy(update={"phase": phase, "stable": stable, "step_since": None}))
    spec = snapshot.fleet.spec.rollout
    if spec.paused:
        return Progress(memory.model_copy(update={"phase": "Paused", "message": "rollout.paused holds it"}))
    if rollout.wanted.source == "rejection":
        return Progress(memory.model_copy(update={"phase": "RollingBack"}))
    if rollout.goal < WHOLE or (spec.steps and rollout.wanted.source == "spec" and rollout.old):
        return _try_step(_Trial(snapshot, rollout, memory, spec, now))
    return Progress(memory)


def _remember(snapshot: Snapshot, rollout: Rollout) -> RolloutStatus:
    """The last status, as far as it is of the revision that is wanted now."""
    wanted, last = rollout.wanted, snapshot.fleet.status.rollout
    stable = last.stable if last else None
    if last is None or last.revision != wanted.revision:
        return RolloutStatus(phase="Progressing", revision=wanted.revision, stable=stable, rejected=wanted.rejected)
    return last.model_copy(update={"phase": "Progressing", "rejected": wanted.rejected, "message": ""})


@dataclass(frozen=True)
class _Trial:
    """A step that is on trial."""

    snapshot: Snapshot
    rollout: Rollout
    memory: RolloutStatus
    spec: RolloutSpec
    now: datetime

    @property
    def since(self) -> datetime | None:
        return parse_time(self.memory.step_since)

    @property
    def name(self) -> str:
        percent = round(100 * float(self.rollout.goal))
        return f"step {min(self.memory.step, len(self.spec.steps)) + 1} of {len(self.spec.steps) + 1} ({percent}%)"

    def tallies(self) -> tuple[Tally, Tally]:
        """What new and old workers did since the step began; those that answer clients speak, if they change."""
        role: PoolRole = "decode" if of_pool(self.rollout.old, "decode") else "prefill"
        target = self.rollout.targets.get(role)
        new = [target.template_revision] if target else []
        old = [w.template_revision for w in of_pool(self.rollout.old, role)]
        since_s = (self.since or self.now).timestamp()
        reports = self.snapshot.routers.reports
        return tally(reports, new, since_s), tally(reports, old, since_s)


def _try_step(trial: _Trial) -> Progress:
    """Reached? Long enough? Enough requests? As good as what serves?"""
    if trial.rollout.share < trial.rollout.goal and trial.since is None:
        return Progress(trial.memory.model_copy(update={"message": f"{trial.name}: workers start"}))
    if trial.since is None:
        reached = {"step_since": _stamp(trial.now), "phase": "Holding", "message": f"{trial.name}: reached"}
        return Progress(trial.memory.model_copy(update=reached), trial.now + _WATCH)
    new, old = trial.tallies()
    breach = find_breach(new, old, trial.snapshot.fleet.spec.objectives)
    if breach is not None and trial.memory.stable is not None:
        return _take_back(trial, breach)
    return _hold_or_go_on(trial, new)


def _take_back(trial: _Trial, breach: str) -> Progress:
    rejected = Rejection(
        revision=trial.rollout.wanted.revision, retry=trial.spec.retry, time=_stamp(trial.now), message=breach
    )
    taken_back = {"phase": "RollingBack", "rejected": rejected, "step": 0, "step_since": None, "message": breach}
    return Progress(trial.memory.model_copy(update=taken_back), trial.now)


def _hold_or_go_on(trial: _Trial, new: Tally) -> Progress:
    memory, spec, now, since = trial.memory, trial.spec, trial.now, trial.since
    assert since is not None
    if memory.step >= len(spec.steps):
        return Progress(memory.model_copy(update={"message": f"{trial.name}: the last workers change"}), now + _WATCH)
    until = since + timedelta(seconds=spec.steps[memory.step].hold_s)
    if now < until:
        text = f"{trial.name}: holds until {_stamp(until)}"
        return Progress(memory.model_copy(update={"phase": "Holding", "message": text}), min(until, now + _WATCH))
    if new.requests < spec.min_requests:
        text = f"{trial.name}: waits for {spec.min_requests} requests on the new workers (rollout.minRequests)"
        return Progress(memory.model_copy(update={"phase": "Holding", "message": text}), now + _WATCH)
    passed = {"step": memory.step + 1, "step_since": None, "message": f"{trial.name}: passed"}
    return Progress(memory.model_copy(update=passed), now)


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
