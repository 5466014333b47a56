"""What requests are served with, and what is known of one before it is served."""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tandem_router.ask import Ask
from tandem_router.errand import Standing
from tandem_router.fleets import Catalog, Fleet
from tandem_router.gateway.gate import GuestVisit, Visit
from tandem_router.http1.messages import Headers
from tandem_router.http1.outbound import UpstreamPool
from tandem_router.keys import KeyRing
from tandem_router.placer import Placer
from tandem_router.probes.prober import KVProber
from tandem_router.reception import Reception
from tandem_router.request_ids import request_ids
from tandem_router.tracing.spans import RequestTrace


@dataclass(frozen=True, slots=True)
class RetryRules:
    """How faults before the first byte are met."""

    retries: int = 2
    prefill_base_s: float = 30.0
    prefill_per_token_s: float = 0.01
    first_byte_timeout_s: float = 300.0

    def prefill_timeout_s(self, tokens: int) -> float:
        """How long a prefill leg may take before another way is tried."""
        return self.prefill_base_s + self.prefill_per_token_s * tokens


@dataclass
class Serving:
    """What all requests are served with."""

    catalog: Catalog
    pool: UpstreamPool
    keys: KeyRing
    placer: Placer
    reception: Reception
    prober: KVProber
    rules: RetryRules
    ids: Iterator[str] = field(default_factory=request_ids)
    background: set[asyncio.Task[None]] = field(default_factory=set)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` apart from the request that wants it."""
        task = self.pool.loop.create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)


class Order(NamedTuple):
    """One accepted request. Times are seconds of the loop's clock.

    Attributes:
        region: name of this region, told with the answer; empty where regions are off.
        is_counted: it is demand of this region.
    """

    ask: Ask
    fleet: Fleet
    headers: Headers
    request_id: bytes | None
    started_s: float
    deadline_s: float
    visit: Visit | GuestVisit
    standing: Standing
    trace: RequestTrace | None = None
    region: str = ""
    is_counted: bool = True

    def answer_headers(self, now_s: float) -> Headers:
        """What an answer says of its own: limits of the tenant, and the region that serves."""
        ours = self.visit.answer_headers(now_s)
        if self.region:
            ours.append((b"X-Tandem-Region", self.region.encode()))
        return ours
