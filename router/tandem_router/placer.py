"""Places a request on workers: gathers what the pure policy asks for, and claims what it decides."""

import random
from collections.abc import Callable

from tandem_router.claims import Claim, Placement
from tandem_router.decision_log import DecisionLog
from tandem_router.errand import Errand
from tandem_router.errors import UpstreamFailedError
from tandem_router.fleets import Fleet, Worker
from tandem_router.policy.costs import missing_tokens
from tandem_router.policy.pairing import Busy, Choices, Pair, PairingRules, decide_pair, decide_prefill
from tandem_router.policy.prefix_index import PrefixIndex
from tandem_router.policy.replay import Taken
from tandem_router.policy.revisions import choose_revision
from tandem_router.roster import Group

NOBODY = Group()
HITS_STAY_S = 0.25  # what the index said of a request that waits is asked again after this time


class Placer:
    """Places requests of any fleet. `draw` gives numbers in [0, 1)."""

    def __init__(
        self, index: PrefixIndex, rules: PairingRules, log: DecisionLog, draw: Callable[[], float] = random.random
    ) -> None:
        self._index = index
        self._rules = rules
        self._log = log
        self._draw = draw

    def place(self, fleet: Fleet, errand: Errand, now_s: float) -> Placement | None:
        """Claim a pair for `errand`; None when it must wait.

        Raises:
            UpstreamFailedError: every worker that could answer has already failed this request.
        """
        revision, group = self._of_one_revision(fleet, fleet.roster.groups(now_s))
        if revision is None or not group.decodes:
            errand.blocked_on = "decode"
            return None
        if errand.failures and all(errand.is_refused_by(worker) for worker in group.decodes):
            raise UpstreamFailedError("Every worker that could answer has failed this request.", code="workers_failed")
        choices = self._choices(fleet, errand, group, now_s)
        self.look_up(fleet, errand, now_s)
        waiting = len(fleet.queue)
        if errand.hits and choices.prefills and (waiting or not all(worker.has_slot for worker in choices.prefills)):
            pressure = waiting / len(choices.prefills)
            errand.want = errand.want._replace(pressure=pressure, can_wait=now_s < errand.latest_start_s)
        draw = self._draw()
        choices, decided = self._decide(errand, choices, draw)
        if isinstance(decided, Busy):
            errand.blocked_on = decided.role
            return None
        self._log.offer(fleet.key, revision, errand, Taken(choices, self._rules, draw, decided), now_s)
        prefill = None if decided.prefill is None else self._claim_prefill(fleet, errand, decided.prefill)
        return Placement(revision, Claim(decided.decode, errand.tokens, fleet.queue.wake), prefill, decided.reason)

    def replace_prefill(self, fleet: Fleet, errand: Errand, revision: str, now_s: float) -> Claim | None:
        """Another prefill worker that can start now, None if there is none."""
        group = fleet.roster.groups(now_s).get(revision, NOBODY)
        prefills = preferred(group.prefills, errand, now_s)
        chosen = decide_prefill(errand.want, prefills, errand.hits, self._draw()) if prefills else None
        return None if chosen is None else self._claim_prefill(fleet, errand, chosen)

    def spare_prefill(self, fleet: Fleet, errand: Errand, placement: Placement, now_s: float) -> Claim | None:
        """A prefill worker with nothing to do, beside the one of `placement`; None if there is none."""
        group = fleet.roster.groups(now_s).get(placement.revision, NOBODY)
        late = None if placement.prefill is None else placement.prefill.worker
        decode = placement.decode.worker
        idle = [one for one in group.prefills if one is not late and not one.running and not decode.given_up(one)]
        prefills = [one for one in preferred(idle, errand, now_s) if not one.is_avoided(now_s)]
        chosen = decide_prefill(errand.want, prefills, errand.hits, self._draw()) if prefills else None
        return None if chosen is None else self._claim_prefill(fleet, errand, chosen)

    def look_up(self, fleet: Fleet, errand: Errand, now_s: float) -> None:
        """Bring what is known of the errand's prefix up to date."""
        if errand.blocks and now_s - errand.hits_s > HITS_STAY_S:
            errand.hits = self._index.hits(errand.blocks, [worker.bit for worker in fleet.workers.values()])
            errand.hits_s = now_s

    def _decide(
        self, errand: Errand, choices: Choices[Worker], draw: float
    ) -> tuple[Choices[Worker], Pair[Worker] | Busy]:
        """The decision, and from what it was taken. A decode worker is not paired with a peer that it has given up."""
        decided = decide_pair(errand.want, choices, errand.hits, self._rules, draw)
        if isinstance(decided, Busy) or decided.prefill is None or not decided.decode.given_up(decided.prefill):
            return choices, decided
        decode = decided.decode
        reached = [one for one in choices.prefills if not decode.given_up(one)]
        choices = choices._replace(prefills=reached, decodes=[decode], whole_reason=None if reached else "circuit_open")
        return choices, decide_pair(errand.want, choices, errand.hits, self._rules, draw)

    def _of_one_revision(self, fleet: Fleet, groups: dict[str, Group]) -> tuple[str | None, Group]:
        """The kv-revision that serves this request, and its workers; with one revision there is nothing to weigh."""
        if len(groups) == 1:
            return next(iter(groups.items()))
        ready = {revision: group.readiness() for revision, group in groups.items()}
        revision = choose_revision(ready, fleet.spec.weights, self._draw(), has_prefill=fleet.spec.has_prefill)
        return revision, NOBODY if revision is None else groups[revision]

    def _choices(self, fleet: Fleet, errand: Errand, group: Group, now_s: float) -> Choices[Worker]:
        whole_reason = errand.whole_reason if fleet.spec.has_prefill else "mixed"
        return Choices(
            [] if whole_reason is not None else preferred(group.prefills, errand, now_s),
            preferred(group.decodes, errand, now_s),
            whole_reason,
            must_split=fleet.spec.on_prefill_failure == "Fail",
        )

    def _claim_prefill(self, fleet: Fleet, errand: Errand, worker: Worker) -> Claim:
        return Claim(worker, missing_tokens(errand.want, worker, errand.hits), fleet.queue.wake)


def preferred(workers: list[Worker], errand: Errand, now_s: float) -> list[Worker]:
    """Those that have not failed this request, without those that failed others a moment ago unless all did."""
    able = [worker for worker in workers if not errand.has_failed(worker)] if errand.failures else workers
    return [worker for worker in able if not worker.ejection.is_open(now_s)] or able
