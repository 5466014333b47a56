"""The connector's half in vLLM's workers: carries out the scheduler side's orders through the KV thread."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tandem_worker.kv.decode_side import Peer
from tandem_worker.kv.layout import HeadSlice, KvLayout, Source, plan_edges, plan_sources
from tandem_worker.kv.loads import Load
from tandem_worker.kv.messages import Engine
from tandem_worker.kv.orders import LoadOrder, StepOrders
from tandem_worker.kv.params import Ticket
from tandem_worker.kv.pull_actions import Job
from tandem_worker.kv.service import KvService


@dataclass(frozen=True, slots=True)
class StepResults:
    """For one step, in vLLM's terms."""

    sent: set[str]
    received: set[str]
    failed: set[str]


@dataclass
class WorkerSide:
    """One rank. Every method returns at once; the KV thread does the work."""

    me: Engine
    layout: KvLayout
    service: KvService
    mark_engine: Callable[[], None] = lambda: None  # KV on a GPU: steps under way may still write to granted blocks
    _missing: set[int] = field(default_factory=set)

    def perform(self, orders: StepOrders) -> None:
        for request_id, blocks in orders.leases:
            self.service.register_lease(request_id, blocks)
        for request_id, ticket in orders.watches:
            self.service.watch(request_id, ticket.remote_request_id, self._peers(ticket))
        if orders.loads:
            self.mark_engine()
        for load in orders.loads:
            self._load(load)
        for request_id, ticket in orders.cancels:
            self.service.cancel(request_id, self._peers(ticket))
        for request_id, ticket in orders.unwatches:
            self.service.unwatch(request_id, self._peers(ticket))
        for ticket in orders.releases:
            self.service.release(ticket.model_dump(), self._peers(ticket))
        if orders.failures or orders.recomputed_tokens:
            self.service.count(orders.failures, orders.recomputed_tokens)

    def take_results(self) -> StepResults:
        """Blocks of failed loads are in `take_missing_blocks` from the same step on."""
        results = self.service.take_results()
        for load in results.loaded:
            self._missing |= load.missing_blocks
        received = {load.request_id for load in results.loaded}
        failed = {load.request_id for load in results.loaded if load.must_recompute_all}
        return StepResults(results.sent, received, failed)

    def take_missing_blocks(self) -> set[int]:
        missing, self._missing = self._missing, set()
        return missing

    def _load(self, order: LoadOrder) -> None:
        sources = self._sources(order.ticket)
        ticket = order.ticket.model_dump()
        pulls = [(_peer(order.ticket, source.rank), self._plan_pull(order, ticket, source)) for source in sources]
        block_size = self.me.groups[0].page_tokens
        load = Load(order.request_id, order.local_blocks, order.local_tokens, order.tokens, block_size, len(pulls))
        self.service.load(load, pulls)
        readers = {peer for peer, _ in pulls}
        if others := [peer for peer in self._peers(order.ticket) if peer not in readers]:
            self.service.release(ticket, others)

    def _plan_pull(self, order: LoadOrder, ticket: dict[str, object], source: Source) -> Job:
        remote, local = self._slices(order.ticket, source)
        return Job(order.request_id, ticket, order.remote_blocks, remote, order.local_blocks, local)

    def _slices(self, ticket: Ticket, source: Source) -> tuple[tuple[HeadSlice, ...], tuple[HeadSlice, ...]]:
        if ticket.tp_size == self.me.tp_size:  # whole pages; groups may differ in heads
            whole = tuple(group.all_heads for group in self.layout.groups)
            return whole, whole
        groups = len(self.layout.groups)
        return (source.remote,) * groups, (source.local,) * groups

    def _sources(self, ticket: Ticket) -> tuple[Source, ...]:
        if ticket.tp_size == self.me.tp_size:
            nothing = HeadSlice(0, 0)  # replaced by whole pages
            return (Source(self.me.tp_rank, nothing, nothing),)
        return plan_sources(self._heads, ticket.tp_size, self.me.tp_size, self.me.tp_rank)

    def _peers(self, ticket: Ticket) -> list[Peer]:
        if ticket.tp_size == self.me.tp_size:
            return [_peer(ticket, self.me.tp_rank)]
        ranks = plan_edges(self._heads, ticket.tp_size, self.me.tp_size, self.me.tp_rank)
        return [_peer(ticket, rank) for rank in ranks]

    @property
    def _heads(self) -> int:
        return self.me.groups[0].kv_heads


def _peer(ticket: Ticket, rank: int) -> Peer:
    return Peer(ticket.remote_host, ticket.remote_port + rank, ticket.remote_engine_id)
