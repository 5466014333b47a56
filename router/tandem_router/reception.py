"""Lets a request in: estimates what it needs, lets it wait in its fleet's queue, and places it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

from tandem_core.targets import Objectives, ttft_target_s
from tandem_router.admission import Patience, Wish
from tandem_router.ask import Ask
from tandem_router.claims import Placement
from tandem_router.errand import Errand, Standing
from tandem_router.errors import UnavailableError
from tandem_router.fleets import Fleet
from tandem_router.placer import Placer
from tandem_router.policy.costs import Want, prefill_s
from tandem_router.policy.prefix_index import BLOCK_BYTES, hash_blocks, seed_of

QUEUE_TIMEOUT_S = 30.0
STARTUP_MARGIN = 1.5  # a request may wait for so many start-ups of a fleet that is at zero
DEFAULT_TTFT_S = 2.0  # of fleets without an objective; only the order of the queue depends on it
NO_TPOT_S = 1.0


@dataclass
class Reception:
    """Where requests of all fleets come in."""

    placer: Placer
    clock: Callable[[], float]

    def read(self, fleet: Fleet, ask: Ask, adapter: str, standing: Standing, span_s: tuple[float, float]) -> Errand:
        """What there is to do for a request; `span_s`: when it came, and its deadline.

        KV computed under a LoRA adapter fits no other, so each has prefixes of its own.
        """
        prompt = ask.prompt
        ratio = fleet.token_ratio
        tpot_s = standing.tpot_s or fleet.spec.tpot_target_s
        want = Want(ratio.tokens(len(prompt)), BLOCK_BYTES * ratio.tokens_per_byte, tpot_s, adapter)
        seed = fleet.index_seed ^ standing.index_seed
        blocks = hash_blocks(prompt, seed ^ seed_of(adapter) if adapter else seed)
        errand = Errand(want, len(prompt), blocks, ask.whole_reason, standing, *span_s)
        self.placer.look_up(fleet, errand, span_s[0])
        return errand

    async def admit(self, fleet: Fleet, errand: Errand) -> Placement:
        """Wait until workers can start the request, and claim them.

        Raises:
            OverloadedError: they stayed busy for too long, or too many wait.
            UnavailableError: there are none, or will never be any.
            UpstreamFailedError: every worker that could answer has already failed this request.
        """
        if fleet.is_dormant:
            raise UnavailableError(
                "This model has no workers and will get none: spec.decode.replicas is 0.", code="scaled_to_zero"
            )
        place = partial(self._place, fleet, errand)
        if errand.hits and errand.whole_reason is None:
            set_times(fleet, errand)  # for what it holds it may be worth a wait
        standing = errand.standing
        new = errand.tokens - errand.cached_tokens
        placed = fleet.queue.place_now(place, standing.tenant, new / standing.weight)
        if placed is not None:
            return placed
        return await fleet.queue.admit(place, build_wish(fleet, errand), build_patience(fleet, self.clock))

    def _place(self, fleet: Fleet, errand: Errand) -> Placement | None:
        return self.placer.place(fleet, errand, self.clock())


def build_wish(fleet: Fleet, errand: Errand) -> Wish:
    """When the request must start, by the objective of its fleet and what its workers have taught."""
    set_times(fleet, errand)
    cached = errand.cached_tokens
    return Wish(
        tokens=errand.tokens - cached,
        cached_tokens=cached,
        latest_start_s=errand.latest_start_s,
        target_s=errand.target_s,
        tenant=errand.standing.tenant,
        priority=errand.standing.priority,
        weight=errand.standing.weight,
        is_retry=bool(errand.failures),
        blocked_on=lambda: errand.blocked_on,
        may_leave=errand.may_leave,
    )


def set_times(fleet: Fleet, errand: Errand) -> None:
    """The errand's TTFT target, and the moment at which it must start to reach it."""
    service_s = isolated_s(fleet, errand.tokens - errand.cached_tokens, errand.started_s)
    errand.target_s = target_of(fleet, errand.standing, service_s)
    errand.latest_start_s = min(errand.started_s + errand.target_s, errand.deadline_s) - service_s


def target_of(fleet: Fleet, standing: Standing, service_s: float) -> float:
    """TTFT target of a request: what its client set, else max(seconds, isolatedFactor × its prefill alone)."""
    if standing.ttft_s is not None:
        return standing.ttft_s
    spec = fleet.spec
    objectives = Objectives(
        spec.ttft_target_s or DEFAULT_TTFT_S, spec.tpot_target_s or NO_TPOT_S, isolated_factor=spec.isolated_factor
    )
    return ttft_target_s(objectives, service_s)


def isolated_s(fleet: Fleet, tokens: int, now_s: float) -> float:
    """Prefill of a prompt alone on a typical worker of the fleet; 0 while nothing is learned."""
    typical = fleet.typical_prefill(now_s)
    return prefill_s(typical, 0, tokens) if typical is not None else 0.0


def build_patience(fleet: Fleet, clock: Callable[[], float]) -> Patience:
    """How long a request may wait: what the spec says; else 30 s, or longer where workers must first start."""
    timeout_s = fleet.spec.queue_timeout_s
    startup_s = fleet.spec.startup_s
    is_at_zero = not fleet.can_serve(clock())
    if timeout_s is None:
        timeout_s = max(QUEUE_TIMEOUT_S, STARTUP_MARGIN * startup_s) if startup_s and is_at_zero else QUEUE_TIMEOUT_S
    return Patience(
        timeout_s,
        can_serve=lambda: fleet.can_serve(clock()),
        retry_after_s=ceil(startup_s) if startup_s and is_at_zero else None,
    )
