"""The connector's half in vLLM's scheduler: decides what is leased, loaded, released. No I/O, no engine imports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tandem_worker.kv.keys import Signer
from tandem_worker.kv.orders import LoadOrder, StepOrders
from tandem_worker.kv.params import Ticket, TicketError, digest_prompt, issue_ticket, read_ticket

NULL_BLOCK = 0  # vLLM's placeholder for blocks outside a sliding window


class PromptRequest(Protocol):
    """What is read of vLLM's Request."""

    request_id: str
    prompt_token_ids: list[int] | None
    num_computed_tokens: int
    kv_transfer_params: dict[str, Any] | None
    lora_request: Any
    mm_features: Sequence[Any]
    abort_immediately: bool


@dataclass(frozen=True)
class Identity:
    """What tickets of this engine say of it. `block_sizes` are tokens per block, by cache group."""

    engine_id: str
    fleet: str
    host: str
    port: int
    tp_size: int
    block_sizes: tuple[int, ...]
    lease_s: float


@dataclass(slots=True)
class _Inbound:
    """A request that came with a ticket; `local_tokens` as the scheduler last told us."""

    ticket: Ticket
    local_tokens: int = 0
    is_loading: bool = False


@dataclass
class SchedulerSide:
    """One engine's scheduler. `unix_s` is the wall clock, for the advisory expiry in tickets."""

    me: Identity
    signer: Signer
    unix_s: Callable[[], float]
    _orders: StepOrders = field(default_factory=StepOrders)
    _inbound: dict[str, _Inbound] = field(default_factory=dict)
    _refused: dict[str, int] = field(default_factory=dict)

    # Decode

    def on_new_request(self, request: PromptRequest) -> None:
        """Check the ticket once, on arrival, and keep its lease alive from now on."""
        if not _is_remote_prefill(request):
            return
        try:
            ticket = read_ticket(request.kv_transfer_params or {}, self.me.fleet, self.signer)
        except TicketError as error:
            self._refuse(request, error)
            return
        if request.abort_immediately:  # vLLM's way to say that its API server turned the request away
            _clear_remote_prefill(request)
            self._orders.releases.append(ticket)
            return
        try:
            self._check_prompt(request, ticket)
        except TicketError as error:
            self._refuse(request, error)
            self._orders.releases.append(ticket)
            return
        self._inbound[request.request_id] = _Inbound(ticket)
        self._orders.watches.append((request.request_id, ticket))

    def count_remote_tokens(self, request: PromptRequest, local_tokens: int) -> int:
        """Tokens that can be loaded beyond `local_tokens`. May be asked repeatedly."""
        if request.request_id in self._refused:
            self._refused[request.request_id] = local_tokens
        inbound = self._inbound.get(request.request_id)
        if inbound is None or not _is_remote_prefill(request):
            return 0
        inbound.local_tokens = local_tokens
        return max(0, inbound.ticket.remote_num_tokens - local_tokens)

    def on_allocated(self, request: PromptRequest, block_ids: Sequence[Sequence[int]], tokens: int) -> None:
        """Blocks were granted; `tokens` of them are to be loaded. A second call for the request changes nothing."""
        if not _is_remote_prefill(request):
            return
        _clear_remote_prefill(request)
        if request.request_id in self._refused:
            local_tokens = self._refused.pop(request.request_id)
            self._orders.recomputed_tokens += len(request.prompt_token_ids or ()) - local_tokens
        inbound = self._inbound.get(request.request_id)
        if inbound is None:
            return
        if tokens == 0:  # all of it was in the local prefix cache
            self._let_go(request.request_id)
            return
        inbound.is_loading = True
        self._orders.loads.append(self._plan_load(request.request_id, inbound, block_ids, tokens))

    def on_loaded(self, request_id: str) -> None:
        """The worker side reported the load's end."""
        if inbound := self._inbound.pop(request_id, None):
            self._orders.unwatches.append((request_id, inbound.ticket))

    def on_decode_finished(self, request: PromptRequest) -> None:
        """Finished or aborted, at any point of its life."""
        self._refused.pop(request.request_id, None)
        inbound = self._inbound.get(request.request_id)
        if inbound is None:
            return
        if inbound.is_loading:
            self._orders.cancels.append((request.request_id, inbound.ticket))
        else:  # it was never scheduled
            _clear_remote_prefill(request)
            self._let_go(request.request_id)

    # Prefill

    def lease(self, request: PromptRequest, block_ids: Sequence[Sequence[int]]) -> dict[str, Any] | None:
        """A prefill is complete: keep its blocks and return the signed parameters, or None when there is nothing."""
        if not request.prompt_token_ids or not any(block_ids):
            return None
        blocks = tuple(map(tuple, block_ids))
        self._orders.leases.append((request.request_id, blocks))
        ticket = issue_ticket(
            {
                "remote_engine_id": self.me.engine_id,
                "remote_request_id": request.request_id,
                "remote_block_ids": [list(ids) for ids in block_ids],
                "remote_host": self.me.host,
                "remote_port": self.me.port,
                "tp_size": self.me.tp_size,
                "remote_num_tokens": min(request.num_computed_tokens, len(request.prompt_token_ids)),
                "prompt_digest": digest_request(request),
                "expiry": int(self.unix_s() + self.me.lease_s),
                "fleet": self.me.fleet,
            },
            self.signer,
        )
        return ticket.to_params()

    def take_orders(self) -> StepOrders:
        orders, self._orders = self._orders, StepOrders()
        return orders

    def _check_prompt(self, request: PromptRequest, ticket: Ticket) -> None:
        prompt = request.prompt_token_ids or []
        if ticket.remote_num_tokens > len(prompt) or ticket.prompt_digest != digest_request(request):
            raise TicketError("prompt_mismatch", "the ticket was issued for another prompt")
        needed = [-(-ticket.remote_num_tokens // size) for size in self.me.block_sizes]
        if list(map(len, ticket.remote_block_ids)) != needed:
            raise TicketError("mismatch_block_size", "the blocks of the ticket are not of this engine's size")

    def _plan_load(
        self, request_id: str, inbound: _Inbound, block_ids: Sequence[Sequence[int]], tokens: int
    ) -> LoadOrder:
        remote: list[tuple[int, ...]] = []
        local: list[tuple[int, ...]] = []
        groups = zip(self.me.block_sizes, inbound.ticket.remote_block_ids, block_ids, strict=True)
        for size, theirs, ours in groups:
            first = inbound.local_tokens // size
            pairs = [
                (there, here)
                for there, here in zip(theirs[first:], ours[first : len(theirs)], strict=True)
                if NULL_BLOCK not in (there, here)
            ]
            remote.append(tuple(there for there, _ in pairs))
            local.append(tuple(here for _, here in pairs))
        blocks = (tuple(remote), tuple(local))
        return LoadOrder(request_id, inbound.ticket, *blocks, inbound.local_tokens, tokens)

    def _let_go(self, request_id: str) -> None:
        ticket = self._inbound.pop(request_id).ticket
        self._orders.unwatches.append((request_id, ticket))
        self._orders.releases.append(ticket)

    def _refuse(self, request: PromptRequest, error: TicketError) -> None:
        """The request runs without remote KV; why is counted."""
        self._refused[request.request_id] = 0
        self._orders.failures[error.reason] = self._orders.failures.get(error.reason, 0) + 1


def _is_remote_prefill(request: PromptRequest) -> bool:
    return bool(request.kv_transfer_params and request.kv_transfer_params.get("do_remote_prefill"))


def _clear_remote_prefill(request: PromptRequest) -> None:
    """vLLM asks again after the load, and again after a failed one; the ticket is redeemed only once."""
    if request.kv_transfer_params is not None:
        request.kv_transfer_params["do_remote_prefill"] = False


def digest_request(request: PromptRequest) -> str:
    """Of all that the KV of a request's prompt is computed from."""
    extras = [f"mm {feature.identifier}" for feature in request.mm_features]
    if request.lora_request is not None:
        extras.append(f"lora {request.lora_request.lora_name}")
    return digest_prompt(request.prompt_token_ids or [], extras)
