"""What the scheduler's half decides for each life a request may have."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from tandem_worker.kv.keys import KeyRing
from tandem_worker.kv.scheduler_side import Identity, SchedulerSide

BLOCK = 32
KEYS = KeyRing("k1", b"0123456789abcdef")
PROMPT = list(range(100))  # four blocks, the last one partial
THEIRS, OURS = [11, 12, 13, 14], [21, 22, 23, 24, 25]  # decode has one block more, for what it will generate


@dataclass
class FakeRequest:
    request_id: str = "r1"
    prompt_token_ids: list[int] | None = field(default_factory=lambda: list(PROMPT))
    num_computed_tokens: int = len(PROMPT)
    kv_transfer_params: dict[str, Any] | None = None
    lora_request: Any = None
    mm_features: list[Any] = field(default_factory=list)
    abort_immediately: bool = False


def build_side(engine_id: str, block_sizes: tuple[int, ...] = (BLOCK,), fleet: str = "ns/f") -> SchedulerSide:
    identity = Identity(engine_id, fleet, "10.0.0.1", 5600, 1, block_sizes, lease_s=30)
    return SchedulerSide(identity, KEYS, unix_s=lambda: 1000.0)


@pytest.fixture
def decode() -> SchedulerSide:
    return build_side("decode")


@pytest.fixture
def params() -> dict[str, Any]:
    """As the prefill engine returned them for PROMPT."""
    issued = build_side("prefill").lease(FakeRequest("p1"), [THEIRS])
    assert issued is not None
    return issued


def arrive(decode: SchedulerSide, params: dict[str, Any], **changes: Any) -> FakeRequest:
    request = FakeRequest(kv_transfer_params=params, **changes)
    decode.on_new_request(request)
    return request


def test_a_finished_prefill_is_leased_and_its_ticket_names_everything() -> None:
    prefill = build_side("prefill")

    params = prefill.lease(FakeRequest("p1"), [THEIRS])

    assert params is not None
    assert prefill.take_orders().leases == [("p1", (tuple(THEIRS),))]
    assert (params["do_remote_prefill"], params["do_remote_decode"]) == (True, False)
    assert (params["remote_engine_id"], params["remote_request_id"]) == ("prefill", "p1")
    assert (params["remote_host"], params["remote_port"], params["tp_size"]) == ("10.0.0.1", 5600, 1)
    assert (params["remote_num_tokens"], params["expiry"], params["kid"]) == (100, 1030, "k1")


def test_a_prefill_without_blocks_is_not_leased() -> None:
    prefill = build_side("prefill")
    assert prefill.lease(FakeRequest(), [[]]) is None
    assert prefill.take_orders().leases == []


def test_a_ticket_is_watched_from_arrival_and_loaded_when_blocks_are_granted(
    decode: SchedulerSide, params: dict[str, Any]
) -> None:
    request = arrive(decode, params)
    assert [key for key, _ in decode.take_orders().watches] == ["r1"]
    assert decode.count_remote_tokens(request, 0) == 100

    decode.on_allocated(request, [OURS], 100)

    (load,) = decode.take_orders().loads
    assert (load.remote_blocks, load.local_blocks) == ((tuple(THEIRS),), (tuple(OURS[:4]),))
    decode.on_loaded("r1")
    assert [key for key, _ in decode.take_orders().unwatches] == ["r1"]


def test_only_what_the_local_prefix_cache_lacks_is_loaded(decode: SchedulerSide, params: dict[str, Any]) -> None:
    request = arrive(decode, params)
    assert decode.count_remote_tokens(request, 64) == 36

    decode.on_allocated(request, [OURS], 36)

    (load,) = decode.take_orders().loads
    assert (load.remote_blocks, load.local_blocks) == (((13, 14),), ((23, 24),))
    assert (load.local_tokens, load.tokens) == (64, 36)


def test_a_ticket_is_redeemed_once_though_vllm_asks_again(decode: SchedulerSide, params: dict[str, Any]) -> None:
    request = arrive(decode, params)
    decode.count_remote_tokens(request, 0)
    decode.on_allocated(request, [OURS], 100)
    decode.take_orders()
    decode.on_loaded("r1")

    assert decode.count_remote_tokens(request, 0) == 0
    decode.on_allocated(request, [OURS], 0)

    orders = decode.take_orders()
    assert (orders.loads, orders.releases) == ([], [])


def test_a_full_local_hit_releases_the_prefill_engine(decode: SchedulerSide, params: dict[str, Any]) -> None:
    request = arrive(decode, params)
    assert decode.count_remote_tokens(request, 100) == 0

    decode.on_allocated(request, [OURS], 0)

    assert [ticket.remote_request_id for ticket in decode.take_orders().releases] == ["p1"]


def test_a_request_aborted_before_it_was_scheduled_releases_the_prefill_engine(
    decode: SchedulerSide, params: dict[str, Any]
) -> None:
    request = arrive(decode, params)
    decode.on_decode_finished(request)
    orders = decode.take_orders()
    assert [ticket.remote_request_id for ticket in orders.releases] == ["p1"]
    assert [key for key, _ in orders.unwatches] == ["r1"]


def test_a_request_aborted_while_loading_is_cancelled(decode: SchedulerSide, params: dict[str, Any]) -> None:
    request = arrive(decode, params)
    decode.count_remote_tokens(request, 0)
    decode.on_allocated(request, [OURS], 100)
    decode.on_decode_finished(request)
    assert [key for key, _ in decode.take_orders().cancels] == ["r1"]


def test_a_request_that_the_api_server_turned_away_releases_the_prefill_engine(
    decode: SchedulerSide, params: dict[str, Any]
) -> None:
    request = arrive(decode, params, prompt_token_ids=[0], abort_immediately=True)
    decode.on_decode_finished(request)
    orders = decode.take_orders()
    assert [ticket.remote_request_id for ticket in orders.releases] == ["p1"]
    assert orders.failures == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mac": "0" * 64}, "bad_signature"),
        ({"remote_host": "10.9.9.9"}, "bad_signature"),
        ({"remote_block_ids": [[1, 2, 3, 4]]}, "bad_signature"),
        ({"fleet": "other/fleet"}, "foreign_fleet"),
        ({"remote_port": "5600"}, "malformed"),
        ({"remote_block_ids": None}, "malformed"),
    ],
)
def test_a_tampered_ticket_is_counted_and_the_prompt_recomputed(
    decode: SchedulerSide, params: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    request = arrive(decode, params | changes)
    assert decode.count_remote_tokens(request, 32) == 0
    decode.on_allocated(request, [OURS], 0)
    orders = decode.take_orders()
    assert (orders.failures, orders.recomputed_tokens) == ({reason: 1}, 68)
    assert (orders.loads, orders.releases, orders.watches) == ([], [], [])


def test_a_ticket_for_another_prompt_is_released_and_not_redeemed(
    decode: SchedulerSide, params: dict[str, Any]
) -> None:
    request = arrive(decode, params, prompt_token_ids=[*PROMPT[:-1], 7])
    assert decode.count_remote_tokens(request, 0) == 0
    orders = decode.take_orders()
    assert orders.failures == {"prompt_mismatch": 1}
    assert [ticket.remote_request_id for ticket in orders.releases] == ["p1"]


def test_another_adapter_is_another_prompt(decode: SchedulerSide, params: dict[str, Any]) -> None:
    class Adapter:
        lora_name = "french"

    arrive(decode, params, lora_request=Adapter())
    assert decode.take_orders().failures == {"prompt_mismatch": 1}


def test_blocks_outside_a_sliding_window_are_not_pulled() -> None:
    issued = build_side("prefill", (BLOCK, BLOCK)).lease(FakeRequest("p1"), [THEIRS, [0, 0, 33, 34]])
    assert issued is not None
    decode = build_side("decode", (BLOCK, BLOCK))
    request = arrive(decode, issued)
    decode.count_remote_tokens(request, 0)

    decode.on_allocated(request, [OURS, [0, 0, 43, 44, 45]], 100)

    (load,) = decode.take_orders().loads
    assert load.remote_blocks == (tuple(THEIRS), (33, 34))
    assert load.local_blocks == (tuple(OURS[:4]), (43, 44))


def test_a_plain_request_is_none_of_our_business(decode: SchedulerSide) -> None:
    request = arrive(decode, {})
    assert decode.count_remote_tokens(request, 0) == 0
    decode.on_allocated(request, [OURS], 0)
    decode.on_decode_finished(request)
    orders = decode.take_orders()
    assert (orders.loads, orders.releases, orders.watches, orders.failures) == ([], [], [], {})
