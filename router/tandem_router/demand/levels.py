"""What waits and what is held in a fleet now."""

from tandem_router.admission import Wish
from tandem_router.demand.recorder import DemandRecorder, FleetLevels
from tandem_router.fleets import Fleet


def build_levels(fleet: Fleet, demand: DemandRecorder) -> FleetLevels:
    """A fleet and its levels. What waits because no decode worker has room does not count as waiting for prefill."""
    for_prefill: list[Wish] = []
    for_decode: list[Wish] = []
    has_decode_queue = any(wish.blocked_on() == "decode" for wish in fleet.queue.wishes()) and fleet.spec.has_prefill
    has_workers = bool(fleet.workers)
    for wish in fleet.queue.wishes():
        (for_decode if has_decode_queue and has_workers else for_prefill).append(wish)
    book = demand.book(fleet.spec.uid)
    spec = fleet.spec
    return FleetLevels(
        spec.namespace,
        spec.name,
        spec.uid,
        {
            "queued": len(for_prefill),
            "queued_tokens": sum(wish.tokens for wish in for_prefill),
            "queued_square_tokens": sum(wish.tokens * (wish.tokens + 2.0 * wish.cached_tokens) for wish in for_prefill),
            "decode_sequences": book.held + len(for_decode),
            "decode_kv_tokens": book.held_tokens + sum(wish.tokens + wish.cached_tokens for wish in for_decode),
        },
    )
