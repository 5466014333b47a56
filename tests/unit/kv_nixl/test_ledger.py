"""What a rank knows of its leases and loads over NIXL."""

from hypothesis import given
from hypothesis import strategies as st

from tandem_worker.kv_nixl.ledger import FAILURE, Ledger
from tandem_worker.kv_nixl.orders import LoadNote, StepNotes

NOTE = LoadNote("mine", "remote-1", "10.0.0.7", 64, 2)


def make_ledger(*, is_first: bool = True) -> Ledger:
    return Ledger(is_first, block_bytes=1000, tombstone_s=60, circuit_failures=3, circuit_cooldown_s=10)


def test_a_load_that_came_is_counted_and_remembered() -> None:
    ledger = make_ledger()
    ledger.begin_step(StepNotes([NOTE]), (), 1.0)
    ledger.end_step((), ["mine", "of-another-connector"], set(), 1.5)
    stats = ledger.to_stats(2)
    assert (stats["transfers"], stats["bytes_received"], stats["remote_tokens"]) == (1, 2000, 64)
    assert stats["transfer_seconds"] == 0.5
    load = ledger.find_load("remote-1")
    assert load is not None
    assert (load.prefill, load.bytes_received, load.remote_tokens) == ("10.0.0.7", 2000, 64)
    assert ledger.find_load("remote-2") is None


def test_only_rank_0_counts_tokens_and_every_rank_its_bytes() -> None:
    ledger = make_ledger(is_first=False)
    ledger.begin_step(StepNotes([NOTE], {"bad_signature": 1}, 7), (), 1.0)
    ledger.end_step((), ["mine"], set(), 1.5)
    stats = ledger.to_stats(2)
    assert (stats["remote_tokens"], stats["recomputed_tokens"], stats["failures"]) == (0, 0, {})
    assert stats["bytes_received"] == 2000


def test_failures_in_a_row_open_the_circuit_and_a_success_closes_it() -> None:
    ledger = make_ledger()
    for number in range(3):
        assert not ledger.find_open_circuits(number)
        ledger.begin_step(StepNotes([NOTE]), (), number)
        ledger.end_step((), ["mine"], {"mine"}, number)
    assert ledger.find_open_circuits(3) == {"10.0.0.7"}
    assert ledger.to_stats(3)["circuits_open"] == ["10.0.0.7:0"]
    assert ledger.to_stats(3)["failures"] == {FAILURE: 3}
    assert ledger.counters.recomputed_tokens == 3 * 64
    assert not ledger.find_open_circuits(30)
    ledger.begin_step(StepNotes([NOTE]), (), 30)
    ledger.end_step((), ["mine"], set(), 30)
    ledger.begin_step(StepNotes([NOTE]), (), 31)
    ledger.end_step((), ["mine"], {"mine"}, 31)
    assert not ledger.find_open_circuits(32)


def test_a_lease_is_released_on_order_also_before_it_begins() -> None:
    ledger = make_ledger()
    ledger.begin_step(StepNotes(), ["cmpl-router-1-0-abc"], 1)
    assert (ledger.release("router-1", 2), ledger.release("router-2", 2)) == (1, 0)
    assert ledger.take_to_free() == {"cmpl-router-1-0-abc"}
    ledger.begin_step(StepNotes(), ["cmpl-router-2-0-abc"], 3)
    assert ledger.take_to_free() == {"cmpl-router-2-0-abc"}
    assert ledger.to_stats(4)["leases"] == 0


@given(st.lists(st.tuples(st.sampled_from(["lease", "sent", "order"]), st.integers(0, 3)), max_size=40))
def test_leases_return_to_zero_in_any_order_of_events(events: list[tuple[str, int]]) -> None:
    ledger, freed = make_ledger(), set()
    leased: set[str] = set()
    for now_s, (event, number) in enumerate(events):
        request_id = f"request-{number}-{now_s}" if event == "lease" else f"request-{number}"
        if event == "lease":
            ledger.begin_step(StepNotes(), [request_id], now_s)
            leased.add(request_id)
        elif event == "sent":
            ledger.end_step([one for one in leased if one.startswith(request_id)], (), set(), now_s)
        else:
            ledger.release(request_id, now_s)
        freed |= ledger.take_to_free()
    ledger.end_step(leased, (), set(), len(events))
    assert ledger.to_stats(len(events))["leases"] == 0
    assert freed <= leased
