"""Corners of leases, circuits and sessions that random exploration reaches rarely."""

import pytest
from property.kv.world import World, build_engine, build_job, build_provider, build_puller, build_ticket

from tandem_worker.kv import provider as p
from tandem_worker.kv import pull_actions as d
from tandem_worker.kv.circuit import Circuit
from tandem_worker.kv.layout import Group, HeadSlice, KvLayout, Region
from tandem_worker.kv.leases import LeaseTable
from tandem_worker.kv.loads import Load
from tandem_worker.kv.messages import Pull, Refuse, Reject
from tandem_worker.kv.puller import State


@pytest.fixture
def leases() -> LeaseTable:
    return LeaseTable(lease_s=30, tombstone_s=60)


def test_a_lease_with_two_consumers_ends_with_the_second(leases: LeaseTable) -> None:
    leases.register("r1", [[1, 2]], 0)
    both = frozenset({0, 1})
    assert leases.release("r1", 1, both, 1) == []
    assert leases.release("r1", 1, both, 2) == []
    assert leases.release("r1", 0, both, 3) == ["r1"]


def test_releases_ahead_of_the_lease_add_up(leases: LeaseTable) -> None:
    both = frozenset({0, 1})
    leases.release("r1", 0, both, 0)
    assert leases.register("r1", [[1]], 1) == []
    assert leases.release("r1", 1, both, 2) == ["r1"]
    leases.release("r2", 0, both, 0)
    leases.release("r2", 1, both, 0)
    assert leases.register("r2", [[1]], 1) == ["r2"]


def test_an_order_to_release_is_forgotten_after_its_time(leases: LeaseTable) -> None:
    leases.drop_matching("transport", 0)
    leases.expire(61)
    assert leases.register("cmpl-transport-0", [[1]], 61) == []


def test_a_pinned_lease_outlives_its_expiry_until_it_is_unpinned(leases: LeaseTable) -> None:
    leases.register("r1", [[1]], 0)
    leases.pin("r1")
    assert leases.expire(31) == []
    assert leases.drop_matching("r1", 32) == []
    assert leases.find("r1") is None, "an ended lease serves no new pull"
    assert leases.unpin("r1", 33) == ["r1"]


def test_a_circuit_opens_after_failures_in_a_row_and_waits_longer_each_time() -> None:
    circuit = Circuit(failures_to_open=2, cooldown_s=10)
    circuit.on_failure(0)
    circuit.on_success()
    circuit.on_failure(0)
    assert not circuit.is_open(0)
    circuit.on_failure(0)
    assert circuit.is_open(9.9)
    assert not circuit.is_open(10)
    circuit.on_failure(10)
    assert circuit.is_open(29.9)
    circuit.on_success()
    circuit.on_failure(40)
    assert not circuit.is_open(40)


def open_session(world: World) -> None:
    world.do_prefill("r0", [90])
    world.do_submit("r0", build_ticket("e1", "r0", [90]))
    world.do_settle(1)
    assert world.puller.state is State.OPEN


def test_a_transfer_that_drips_for_ever_is_ended_by_its_own_deadline() -> None:
    world = World()
    open_session(world)
    blocks = list(range(40))
    world.do_prefill("r1", blocks)
    world.do_submit("r1", build_ticket("e1", "r1", blocks))
    for _ in range(70):
        link = max(world.wires)
        for _ in range(3):
            world.do_deliver(link, to_prefill=True)
            world.do_deliver(link, to_prefill=False)
        if int(world.now_s) % 5 == 0:
            world.do_move_chunk(link)
        world.do_wait(1)
    world.do_settle(5)
    assert world.ends["r1"].fault == "transfer_timeout"
    assert world.violations == []


def test_a_peer_that_answers_pings_but_not_the_pull_is_given_up() -> None:
    world = World()
    open_session(world)
    world.do_submit("r1", build_ticket("e1", "r1", [5]))
    link = max(world.wires)
    world.wires[link].to_prefill.clear()
    for _ in range(10):
        world.do_deliver(link, to_prefill=True)
        world.do_deliver(link, to_prefill=False)
        world.do_wait(0.9)
    assert world.ends["r1"].fault == "ready_timeout"


def test_a_silent_peer_is_given_up_and_those_in_the_queue_fail_with_it_when_it_stays_away() -> None:
    world = World()
    open_session(world)
    world.do_black_hole(max(world.wires))
    for number in (1, 2, 3):
        world.do_submit(f"r{number}", build_ticket("e1", f"r{number}", [number]))
    for _ in range(4):
        world.do_wait(1)
    assert world.ends["r1"].fault == "peer_silent"
    while world.dialing:
        world.do_connect(succeeds=False)
    assert (world.ends["r2"].fault, world.ends["r3"].fault) == ("connect_failed", "connect_failed")


def test_a_refusal_fails_all_that_wait_with_its_reason() -> None:
    puller = build_puller(build_engine("d1"), "e1")
    (connect,) = puller.submit(build_job("r1", build_ticket("e1", "r1", [1]), [1]), 0)
    assert isinstance(connect, d.Connect)
    puller.on_connected(connect.link, "00")
    actions = puller.on_message(connect.link, Refuse(reason="mismatch_dtype"), 0)
    ends = [action for action in actions if isinstance(action, d.Finished)]
    assert [end.fault for end in ends] == ["refused_mismatch_dtype"]


def test_messages_of_a_former_connection_change_nothing() -> None:
    world = World()
    open_session(world)
    former = max(world.wires)
    world.do_lose(former)
    world.do_submit("r1", build_ticket("e1", "r1", [5]))
    assert world.puller.on_message(former, Reject(transfer=2, reason="x"), world.now_s) == []
    assert world.puller.on_lost(former, world.now_s) == []
    assert world.puller.on_connected(former, "00") == [d.Disconnect(former)]


def test_a_ticket_of_the_engine_before_its_restart_is_rejected() -> None:
    world = World()
    open_session(world)
    stale = build_ticket("e0", "r0", [90])
    pull = Pull(transfer=9, ticket=stale, blocks=[[90]], heads=[(0, 2)])
    connection = world.wires[max(world.wires)].connection
    actions = world.provider.on_message(connection, pull, world.now_s)
    assert p.Failed("stale_engine") in actions


@pytest.mark.parametrize("heads", [[(0, 3)], [(-1, 1)], [(0, 0)], [], [(0, 2), (0, 2)]])
def test_heads_that_the_rank_does_not_hold_are_refused(heads: list[tuple[int, int]]) -> None:
    world = World()
    open_session(world)
    world.do_prefill("r1", [5])
    pull = Pull(transfer=9, ticket=build_ticket("e1", "r1", [5]), blocks=[[5]], heads=heads)
    connection = world.wires[max(world.wires)].connection
    assert p.Failed("forged_heads") in world.provider.on_message(connection, pull, world.now_s)


def test_a_pull_that_waits_for_its_lease_is_forgotten_with_its_session() -> None:
    world = World()
    open_session(world)
    world.do_submit("r1", build_ticket("e1", "r1", [5]))
    link = max(world.wires)
    while world.wires[link].to_prefill:
        world.do_deliver(link, to_prefill=True)
    world.do_lose(link)

    world.do_prefill("r1", [5])
    world.do_settle(2)

    assert world.violations == []
    assert world.freed["r1"] == 1, "decode gave the ticket up, and said so on its next session"


def test_a_pull_that_overtakes_the_word_that_the_last_one_was_sent_is_served_after_it() -> None:
    world = World()
    open_session(world)
    world.do_prefill("r1", [5])
    world.do_prefill("r2", [6])
    connection = world.wires[max(world.wires)].connection
    first = Pull(transfer=8, ticket=build_ticket("e1", "r1", [5]), blocks=[[5]], heads=[(0, 2)])
    second = Pull(transfer=9, ticket=build_ticket("e1", "r2", [6]), blocks=[[6]], heads=[(0, 2)])
    world.provider.on_message(connection, first, world.now_s)
    assert world.provider.on_message(connection, second, world.now_s) == []

    actions = world.provider.on_sent(connection, 8, None, world.now_s)

    assert [action.transfer for action in actions if isinstance(action, p.StartSend)] == [9]


def test_a_third_pull_during_a_transfer_ends_the_session() -> None:
    world = World()
    open_session(world)
    world.do_prefill("r1", [5])
    connection = world.wires[max(world.wires)].connection
    pull = Pull(transfer=9, ticket=build_ticket("e1", "r1", [5]), blocks=[[5]], heads=[(0, 2)])
    world.provider.on_message(connection, pull, world.now_s)
    world.provider.on_message(connection, pull, world.now_s)
    actions = world.provider.on_message(connection, pull, world.now_s)
    assert p.Close(connection) in actions
    assert p.Failed("protocol_error") in actions


def test_a_second_pull_while_the_first_awaits_its_lease_ends_the_session() -> None:
    world = World()
    open_session(world)
    connection = world.wires[max(world.wires)].connection
    pull = Pull(transfer=9, ticket=build_ticket("e1", "r1", [5]), blocks=[[5]], heads=[(0, 2)])
    world.provider.on_message(connection, pull, world.now_s)
    assert p.Failed("protocol_error") in world.provider.on_message(connection, pull, world.now_s)


def test_one_peer_too_many_is_told_so() -> None:
    provider = build_provider(build_engine("e1"))
    for connection in range(16):
        provider.on_connect(connection, "00", {}, 0)
    actions = provider.on_connect(99, "00", {}, 0)
    assert p.Close(99) in actions
    assert p.Failed("too_many_sessions") in actions


def test_a_load_from_two_ranks_ends_with_the_second_and_lacks_what_either_lacks() -> None:
    load = Load("r1", ((4, 5, 6),), local_tokens=16, tokens=40, block_size=16, open_pulls=2)
    layout = KvLayout((Group((Region(0, 8, 4, 4, 4, 1, 2),)),))
    heads = (HeadSlice(0, 1),)
    assert load.on_pulled(layout, heads, chunk_bytes=2, chunks=3, fault=None) is None

    result = load.on_pulled(layout, heads, chunk_bytes=2, chunks=1, fault="peer_eof")

    assert result is not None
    assert result.missing_blocks == {5, 6}
    assert (result.remote_tokens, result.recomputed_tokens) == (16, 24)


def test_a_failed_load_of_several_cache_groups_is_recomputed_whole() -> None:
    load = Load("r1", ((4,), (5,)), local_tokens=16, tokens=16, block_size=16, open_pulls=1)
    group = Group((Region(0, 8, 4, 4, 4, 1, 2),))
    layout = KvLayout((group, group))

    result = load.on_pulled(layout, (HeadSlice(0, 2),) * 2, chunk_bytes=4, chunks=1, fault="peer_eof")

    assert result is not None
    assert (result.must_recompute_all, result.missing_blocks, result.recomputed_tokens) == (True, frozenset(), 32)
