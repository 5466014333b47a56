"""Whatever the network and the processes do: every pull ends once, every lease comes back, nothing wrong arrives."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from property.kv.world import World, build_ticket

pytestmark = pytest.mark.timeout(300)  # thousands of steps, on machines that may be busy


class Sessions(RuleBasedStateMachine):
    """Hypothesis chooses what happens next; teardown lets everything come to rest and draws the balance."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.requests = 0
        self.late: list[tuple[str, list[int]]] = []

    def choose_link(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.world.wires)))

    @rule(blocks=st.integers(1, 4), is_forged=st.booleans())
    def request(self, blocks: int, is_forged: bool) -> None:
        request_id, ids = self.issue(blocks)
        self.world.do_prefill(request_id, ids)
        forged = tuple(block + 1 for block in ids) if is_forged else ()
        self.world.do_submit(request_id, build_ticket(self.engine_id, request_id, ids), forged)

    @rule(blocks=st.integers(1, 4))
    def request_before_its_lease(self, blocks: int) -> None:
        request_id, ids = self.issue(blocks)
        self.world.do_submit(request_id, build_ticket(self.engine_id, request_id, ids))
        self.late.append((request_id, ids))

    @precondition(lambda self: self.late)
    @rule()
    def lease_late(self) -> None:
        self.world.do_prefill(*self.late.pop(0))

    @property
    def engine_id(self) -> str:
        return f"e{self.world.starts}"

    def issue(self, blocks: int) -> tuple[str, list[int]]:
        self.requests += 1
        return f"r{self.requests}.", list(range(self.requests * 10, self.requests * 10 + blocks))

    @precondition(lambda self: self.world.submitted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.world.do_cancel(data.draw(st.sampled_from(sorted(self.world.submitted))))

    @precondition(lambda self: self.world.leased)
    @rule(data=st.data())
    def order_release(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.world.leased)))
        self.world.on_prefill(self.world.provider.on_release_order(request_id, self.world.now_s))

    @precondition(lambda self: self.world.dialing)
    @rule(succeeds=st.booleans())
    def connect(self, succeeds: bool) -> None:
        self.world.do_connect(succeeds=succeeds)

    @precondition(lambda self: self.world.wires)
    @rule(data=st.data(), to_prefill=st.booleans())
    def deliver(self, data: st.DataObject, to_prefill: bool) -> None:
        self.world.do_deliver(self.choose_link(data), to_prefill=to_prefill)

    @rule(moves=st.integers(0, 2))
    def progress(self, moves: int) -> None:
        """A lot of ordinary life, so that interesting states are reached often."""
        while self.world.dialing:
            self.world.do_connect(succeeds=True)
        for link in list(self.world.wires):
            for _ in range(4):
                self.world.do_deliver(link, to_prefill=False)
                self.world.do_deliver(link, to_prefill=True)
                self.world.do_attach(link)
            for _ in range(moves):
                self.world.do_move_chunk(link)

    @precondition(lambda self: self.world.wires)
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        self.world.do_move_chunk(self.choose_link(data))

    @precondition(lambda self: self.world.wires)
    @rule(data=st.data())
    def break_something(self, data: st.DataObject) -> None:
        fault = data.draw(st.sampled_from([self.world.do_lose, self.world.do_black_hole, self.world.do_fail_data]))
        fault(self.choose_link(data))

    @precondition(lambda self: self.requests > 2)
    @rule()
    def restart_prefill(self) -> None:
        self.world.do_restart_prefill()
        self.late.clear()

    @rule(seconds=st.sampled_from([0.1, 1.1, 2.5, 5.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.world.do_wait(seconds)

    @invariant()
    def nothing_forbidden_happened(self) -> None:
        assert self.world.violations == []

    def teardown(self) -> None:
        world = self.world
        world.do_settle()
        assert world.violations == []
        assert set(world.ends) == set(world.submitted), "a pull never ended"
        assert len(world.provider.leases) == 0
        assert world.freed == dict.fromkeys(world.leased, 1), "a lease came back never, or twice"
        assert not any(wire.sending or wire.receiving for wire in world.wires.values())


Sessions.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestSessions = Sessions.TestCase


def test_an_undisturbed_request_arrives_whole_and_is_released() -> None:
    world = World()
    world.do_prefill("r1", [5, 3, 9])
    world.do_submit("r1", build_ticket("e1", "r1", [5, 3, 9]))

    world.do_settle(2)

    assert world.ends["r1"].fault is None
    assert [world.decode_memory[block] for block in (0, 1, 2)] == ["r1:0", "r1:1", "r1:2"]
    assert world.freed == {"r1": 1}
    assert world.violations == []
