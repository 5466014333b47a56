"""Places a request on workers: gathers what the pure policy asks for, and claims what it decides."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tandem_router.claims import Claim, Placement
from tandem_router.errors import UpstreamFailedError
from tandem_router.fleets import Fleet, Worker, readiness
from tandem_router.policy.pairing import (
    PairingRules,
    decide_decode,
    decide_prefill,
    is_local_better,
    missing_tokens,
)
from tandem_router.policy.prefix_index import PrefixIndex
from tandem_router.policy.revisions import choose_revision


@dataclass(frozen=True, slots=True)
class Errand:
    """What placing needs to know of a request.

    Attributes:
        blocks: hashes of its prompt's blocks.
        whole_reason: why it must not be split, None if it may.
        failures: which start of which worker (by uid) failed this request, and when; grows as it is retried.
    """

    tokens: int
    blocks: list[int]
    whole_reason: str | None
    failures: dict[str, tuple[str, float]] = field(default_factory=dict)

    def note_failure(self, worker: Worker, now_s: float) -> None:
        """`worker` failed this request."""
        self.failures[worker.spec.uid] = (worker.instance, now_s)

    def has_failed(self, worker: Worker) -> bool:
        """This start of `worker` failed this request."""
        return worker.spec.uid in self.failures and self.failures[worker.spec.uid][0] == worker.instance

    def is_refused_by(self, worker: Worker) -> bool:
        """`worker` failed this request and was seen alive after it: it is not merely dead."""
        return self.has_failed(worker) and worker.is_seen_since(self.failures[worker.spec.uid][1])


class Placer:
    """Places requests of any fleet. `draw` gives numbers in [0, 1)."""

    def __init__(self, index: PrefixIndex, rules: PairingRules, draw: Callable[[], float] = random.random) -> None:
        self._index = index
        self._rules = rules
        self._draw = draw

    def place(self, fleet: Fleet, errand: Errand, now_s: float) -> Placement | None:
        """Claim a pair for `errand`; None when it must wait.

        Raises:
            UpstreamFailedError: every worker that could answer has already failed this request.
        """
        usable = fleet.usable(now_s)
        revision, workers = self._of_one_revision(fleet, usable)
        decodes = [worker for worker in workers if not worker.is_prefill]
        if revision is None or not decodes:
            return None
        if errand.failures and all(errand.is_refused_by(worker) for worker in decodes):
            raise UpstreamFailedError("Every worker that could answer has failed this request.", code="workers_failed")
        decodes = preferred(decodes, errand, now_s)
        decode = decide_decode(errand.tokens, decodes, self._hits(errand, decodes), self._draw())
        if decode is None:
            return None
        return self._with_prefill(fleet, errand, revision, decode, workers, now_s)

    def _of_one_revision(self, fleet: Fleet, usable: list[Worker]) -> tuple[str | None, list[Worker]]:
        """The kv-revision that serves this request, and its workers; with one revision there is nothing to weigh."""
        if len({worker.spec.kv_revision for worker in usable}) == 1:
            return usable[0].spec.kv_revision, usable
        spec = fleet.spec
        revision = choose_revision(readiness(usable), spec.weights, self._draw(), has_prefill=spec.has_prefill)
        return revision, [worker for worker in usable if worker.spec.kv_revision == revision]

    def replace_prefill(self, fleet: Fleet, errand: Errand, revision: str, now_s: float) -> Claim | None:
        """Another prefill worker that can start now, None if there is none."""
        workers = [worker for worker in fleet.usable(now_s) if worker.spec.kv_revision == revision]
        return self._claim_prefill(fleet, errand, workers, now_s)

    def _with_prefill(
        self, fleet: Fleet, errand: Errand, revision: str, decode: Worker, workers: list[Worker], now_s: float
    ) -> Placement | None:
        reason = self._local_reason(fleet, errand, decode)
        prefill: Claim | None = None
        if reason is None:
            prefill = self._claim_prefill(fleet, errand, workers, now_s)
            reason = "remote"
            if prefill is None:
                if fleet.spec.on_prefill_failure == "Fail" or self._is_busy(workers, errand):
                    return None
                reason = "no_prefill_worker"
        return Placement(revision, Claim(decode, errand.tokens, fleet.queue.wake), prefill, reason)

    def _local_reason(self, fleet: Fleet, errand: Errand, decode: Worker) -> str | None:
        if not fleet.spec.has_prefill:
            return "mixed"
        if errand.whole_reason is not None:
            return errand.whole_reason
        hits = self._hits(errand, [decode])
        return "cached" if is_local_better(errand.tokens, decode, hits, self._rules) else None

    def _claim_prefill(self, fleet: Fleet, errand: Errand, workers: list[Worker], now_s: float) -> Claim | None:
        prefills = preferred([worker for worker in workers if worker.is_prefill], errand, now_s)
        hits = self._hits(errand, prefills)
        chosen = decide_prefill(errand.tokens, prefills, hits, self._draw()) if prefills else None
        if chosen is None:
            return None
        return Claim(chosen, missing_tokens(errand.tokens, chosen, hits), fleet.queue.wake)

    def _hits(self, errand: Errand, workers: list[Worker]) -> dict[int, int]:
        return self._index.hits(errand.blocks, [worker.bit for worker in workers]) if errand.blocks else {}

    def _is_busy(self, workers: list[Worker], errand: Errand) -> bool:
        """A prefill worker exists and will come free."""
        return any(worker.is_prefill and not errand.has_failed(worker) for worker in workers)


def preferred(workers: list[Worker], errand: Errand, now_s: float) -> list[Worker]:
    """Those that have not failed this request, without those that failed others a moment ago unless all did."""
    able = [worker for worker in workers if not errand.has_failed(worker)] if errand.failures else workers
    return [worker for worker in able if not worker.is_avoided(now_s)] or able
