"""NIXL's parameters, signed and checked."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from tandem_worker.kv.keys import KeyRing
from tandem_worker.kv.params import read_ticket
from tandem_worker.kv_nixl.orders import LoadNote
from tandem_worker.kv_nixl.tickets import TicketOffice

RING = KeyRing("k1", b"k" * 32)
PROMPT = list(range(100))
NIXL = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_block_ids": ([3, 4],),
    "remote_engine_id": "engine-1",
    "remote_request_id": "cmpl-1",
    "remote_host": "10.0.0.7",
    "remote_port": 5700,
    "tp_size": 1,
    "dcp_size": 1,
    "pp_size": 1,
    "remote_num_tokens": 101,
    "remote_blocks_expiry_time": None,
    "transfer_mode": "pull",
}


@dataclass
class Request:
    """What is read of vLLM's."""

    kv_transfer_params: dict[str, Any] | None
    request_id: str = "mine"
    prompt_token_ids: list[int] | None = field(default_factory=lambda: list(PROMPT))
    num_computed_tokens: int = 100
    lora_request: Any = None
    mm_features: tuple[Any, ...] = ()
    abort_immediately: bool = False


def make_office() -> TicketOffice:
    return TicketOffice("ns/fleet", 30, RING, lambda: 1000.0)


def make_ticket() -> dict[str, Any]:
    return make_office().sign(Request({"do_remote_decode": True}), dict(NIXL))


def test_a_signed_parameter_set_is_a_ticket_and_still_nixls_own() -> None:
    params = make_ticket()
    ticket = read_ticket(params, "ns/fleet", RING)
    assert (ticket.remote_request_id, ticket.remote_num_tokens, ticket.expiry) == ("cmpl-1", 100, 1030)
    assert (params["transfer_mode"], params["do_remote_prefill"]) == ("pull", True)


def test_an_honest_ticket_loads_and_is_noted_once() -> None:
    office, request = make_office(), Request(make_ticket() | {"remote_notes": "of a stranger"})
    office.on_new_request(request, ())
    assert request.kv_transfer_params is not None
    assert "remote_notes" not in request.kv_transfer_params
    assert request.kv_transfer_params["pp_size"] == 1
    assert office.may_load(request, 32)
    office.on_allocated(request, 68, 3)
    request.kv_transfer_params["do_remote_prefill"] = False  # as NIXL does
    office.on_allocated(request, 0, 0)
    notes = office.take_notes()
    assert notes.loads == [LoadNote("mine", "cmpl-1", "10.0.0.7", 68, 3)]
    assert (notes.failures, notes.recomputed_tokens) == ({}, 0)
    assert office.take_notes().loads == []


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        ({"mac": "0" * 64}, "bad_signature"),
        ({"remote_host": "10.6.6.6"}, "bad_signature"),
        ({"remote_block_ids": [[1, 2, 3]]}, "bad_signature"),
        ({"fleet": "ns/other"}, "foreign_fleet"),
        ({"remote_port": "5700"}, "malformed"),
    ],
)
def test_what_is_not_signed_is_not_believed_and_its_prompt_is_computed_here(forge: dict[str, Any], reason: str) -> None:
    office, request = make_office(), Request(make_ticket() | forge)
    office.on_new_request(request, ())
    assert request.kv_transfer_params is None
    assert not office.may_load(request, 32)
    office.on_allocated(request, 0, 0)
    notes = office.take_notes()
    assert (notes.failures, notes.recomputed_tokens, notes.loads) == ({reason: 1}, 68, [])


@pytest.mark.parametrize(
    ("changes", "circuits", "reason"),
    [({"prompt_token_ids": [9] * 100}, (), "prompt_mismatch"), ({}, ("10.0.0.7",), "circuit_open")],
)
def test_an_honest_ticket_that_is_of_no_use_stays_so_that_its_lease_is_ended(
    changes: dict[str, Any], circuits: tuple[str, ...], reason: str
) -> None:
    office, request = make_office(), Request(make_ticket(), **changes)
    office.on_new_request(request, circuits)
    assert request.kv_transfer_params is not None
    assert request.kv_transfer_params["do_remote_prefill"]
    assert not office.may_load(request, 0)
    office.on_allocated(request, 0, 0)
    assert office.take_notes().failures == {reason: 1}


def test_a_ticket_is_redeemed_once_and_in_time_because_prefill_cannot_refuse_a_read() -> None:
    office = make_office()
    for _ in range(2):
        request = Request(make_ticket())
        office.on_new_request(request, ())
    assert office.take_notes().failures == {"lease_released": 1}
    late = TicketOffice("ns/fleet", 30, RING, lambda: 1030.0)
    late.on_new_request(Request(make_ticket()), ())
    assert late.take_notes().failures == {"lease_expired": 1}


def test_a_refused_request_that_ends_before_it_runs_leaves_nothing_behind() -> None:
    office, request = make_office(), Request({"do_remote_prefill": True})
    office.on_new_request(request, ())
    office.on_finished("mine")
    assert office.may_load(request, 0)
    assert office.take_notes().recomputed_tokens == 0


def test_requests_without_tickets_pass() -> None:
    office = make_office()
    for params in (None, {}, {"do_remote_decode": True}):
        request = Request(params)
        office.on_new_request(request, ())
        assert request.kv_transfer_params == params
        assert office.may_load(request, 0)
    assert office.take_notes().failures == {}
