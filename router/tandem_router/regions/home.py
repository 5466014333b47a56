"""What a request would meet in this region: the load of a fleet over all its routers. Pure.

Workers know what all routers have on them (digests, polled state); queues are summed from what each router told.
"""

from collections.abc import Iterable

from tandem_router.digests.messages import FleetLevel
from tandem_router.fleets import Fleet, Worker
from tandem_router.policy.costs import prefill_s
from tandem_router.policy.learned import Terms
from tandem_router.regions.load import FleetLoad

ASSUMED_TOKENS_PER_S = 4000.0  # of a worker while nothing is learned; right within a factor of ten is enough
TYPICAL_TOKENS = 1024
KV_FULL = 0.95  # share of a worker's KV cache
TPOT_FILL = 0.9  # share of the objective up to which a decode batch is filled


def build_load(fleet: Fleet, others: Iterable[FleetLevel], now_s: float) -> FleetLoad:
    """The fleet as it is now; `others`: what the other routers of this region said of their queues."""
    usable = fleet.usable(now_s)
    decodes = [worker for worker in usable if not worker.is_prefill]
    if not decodes:
        return FleetLoad()
    prefills = [worker for worker in usable if worker.is_prefill]
    levels = list(others)
    wishes = list(fleet.queue.wishes())
    queued = sum(wish.tokens for wish in wishes) + sum(level.queued_tokens for level in levels)
    waiting = sum(wish.blocked_on() == "decode" for wish in wishes) + sum(level.waiting_decode for level in levels)
    return FleetLoad(
        queued_tokens=float(queued + sum(worker.backlog_tokens for worker in prefills)),
        prefill_workers=len(prefills or decodes),
        worker_tokens_per_s=tokens_per_s(fleet.typical_prefill(now_s)),
        free_slots=sum(room_of(worker, fleet.spec.tpot_target_s) for worker in decodes),
        idle_workers=sum(map(is_idle, prefills or decodes)),
        waiting_decode=waiting,
    )


def is_idle(worker: Worker) -> bool:
    """It could begin a prompt at once: a prefill worker has none; others batch prompts with what they decode."""
    return not worker.running if worker.is_prefill else worker.running < worker.slots


def tokens_per_s(typical: Terms | None) -> float:
    """What a worker prefills, by what was learned."""
    if typical is None:
        return ASSUMED_TOKENS_PER_S
    return TYPICAL_TOKENS / max(1e-6, prefill_s(typical, 0, TYPICAL_TOKENS))


def room_of(worker: Worker, tpot_target_s: float | None) -> int:
    """Requests like those that it has which a decode worker can take more, within slots, KV cache and TPOT."""
    running = worker.running
    room = worker.slots - running
    if not running:
        return max(0, room)
    if worker.state is not None and worker.state.kv_usage > 0.0:
        room = min(room, int((KV_FULL - worker.state.kv_usage) / (worker.state.kv_usage / running)))
    terms = worker.fits.decode.terms
    if terms is not None and tpot_target_s is not None:
        each_s = terms[1] + terms[2] * worker.backlog_tokens / running
        if each_s > 0.0:
            room = min(room, int((TPOT_FILL * tpot_target_s - terms[0]) / each_s) - running)
    return max(0, room)
