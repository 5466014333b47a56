"""The scheduler's half: NIXL's parameters get our ticket's fields and signature, and are redeemed only with them.

A prefill worker cannot refuse a read: NIXL's are one-sided. So the decode worker has to know what a lease's end would
tell it with our own connector: tickets that are overdue, or that were redeemed here, are not believed to hold KV.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

from tandem_worker.kv.keys import Signer
from tandem_worker.kv.params import Ticket, TicketError, issue_ticket, read_ticket
from tandem_worker.kv.scheduler_side import PromptRequest, digest_request
from tandem_worker.kv_nixl.orders import LoadNote, StepNotes

_SIGNED = frozenset(Ticket.model_fields) - {"kid", "mac"}
_TICKETS_REMEMBERED = 8192
_UNSIGNED = ("pp_size", "dcp_size", "transfer_mode")  # say how to read at the signed address; wrong ones fail there


@dataclass
class TicketOffice:
    """One engine's scheduler. `unix_s` is the wall clock, for the advisory expiry in tickets."""

    fleet: str
    lease_s: float
    signer: Signer
    unix_s: Callable[[], float]
    _notes: StepNotes = field(default_factory=StepNotes)
    _refused: dict[str, int] = field(default_factory=dict)  # request → tokens that the local cache has of it
    _seen: dict[str, None] = field(default_factory=dict)  # prefill's request ids, oldest first

    # Prefill

    def sign(self, request: PromptRequest, params: dict[str, Any]) -> dict[str, Any]:
        """NIXL's parameters of a finished prefill, with a ticket's other fields, signed."""
        prompt_tokens = len(request.prompt_token_ids or ())
        fields = params | {
            "remote_block_ids": [list(ids) for ids in params["remote_block_ids"]],
            "remote_num_tokens": min(params["remote_num_tokens"], prompt_tokens),
            "prompt_digest": digest_request(request),
            "expiry": int(self.unix_s() + self.lease_s),
            "fleet": self.fleet,
        }
        return params | issue_ticket({name: fields[name] for name in _SIGNED}, self.signer).to_params()

    # Decode

    def on_new_request(self, request: PromptRequest, circuits_open: Container[str]) -> None:
        """Judge the ticket once, on arrival. What cannot be redeemed is counted, and the prompt computed here."""
        params = request.kv_transfer_params
        if not params or not params.get("do_remote_prefill"):
            return
        try:
            ticket = read_ticket(params, self.fleet, self.signer)
        except TicketError as error:
            request.kv_transfer_params = None  # nothing of it is believed, not even whose lease it would end
            self._refuse(request, error.reason)
            return
        request.kv_transfer_params = ticket.to_params() | {name: params[name] for name in _UNSIGNED if name in params}
        if reason := self._find_fault(ticket, request, circuits_open):
            self._refuse(request, reason)
        self._remember(f"{ticket.remote_engine_id} {ticket.remote_request_id}")

    def _find_fault(self, ticket: Ticket, request: PromptRequest, circuits_open: Container[str]) -> str | None:
        if ticket.prompt_digest != digest_request(request):
            return "prompt_mismatch"
        if self.unix_s() >= ticket.expiry:
            return "lease_expired"
        if f"{ticket.remote_engine_id} {ticket.remote_request_id}" in self._seen:
            return "lease_released"
        return "circuit_open" if ticket.remote_host in circuits_open else None

    def _remember(self, name: str) -> None:
        self._seen[name] = None
        if len(self._seen) > _TICKETS_REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def may_load(self, request: PromptRequest, local_tokens: int) -> bool:
        """Asked before NIXL is; what may not load is a full local hit to NIXL, which then ends the lease."""
        if request.request_id not in self._refused:
            return True
        self._refused[request.request_id] = local_tokens
        return False

    def on_allocated(self, request: PromptRequest, tokens: int, blocks: int) -> None:
        """Called before NIXL forgets that the request came with a ticket: `tokens` are to be loaded into `blocks`."""
        if (local_tokens := self._refused.pop(request.request_id, None)) is not None:
            self._notes.recomputed_tokens += len(request.prompt_token_ids or ()) - local_tokens
        params = request.kv_transfer_params
        if params and params.get("do_remote_prefill") and tokens:
            remote_id, host = str(params["remote_request_id"]), str(params["remote_host"])
            self._notes.loads.append(LoadNote(request.request_id, remote_id, host, tokens, blocks))

    def on_finished(self, request_id: str) -> None:
        self._refused.pop(request_id, None)

    def take_notes(self) -> StepNotes:
        notes, self._notes = self._notes, StepNotes()
        return notes

    def _refuse(self, request: PromptRequest, reason: str) -> None:
        self._refused[request.request_id] = 0
        self._notes.failures[reason] = self._notes.failures.get(reason, 0) + 1
