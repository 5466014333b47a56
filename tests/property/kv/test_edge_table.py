"""Communicators under a cap, whatever edges want: none in use is taken away, the least used goes first, epochs grow."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tandem_worker.kv.edge_table import EdgeState, EdgeTable

EDGES = st.integers(1, 8)


class Edges(RuleBasedStateMachine):
    """Holds the table against what its edges believe."""

    @initialize(cap=st.integers(1, 4))
    def begin(self, cap: int) -> None:
        self.table = EdgeTable(cap, idle_s=10.0)
        self.now_s = 0.0
        self.opening: set[int] = set()
        self.busy: set[int] = set()
        self.idle: dict[int, float] = {}  # edge → last used
        self.newest_epoch = 0

    @property
    def held(self) -> set[int]:
        return self.opening | self.busy | self.idle.keys()

    @rule(edge=EDGES)
    def open_one(self, edge: int) -> None:
        if edge in self.held:
            return
        full, before = len(self.held) == self.table.cap, dict(self.idle)

        opening = self.table.plan_opening(edge, self.now_s)

        if full and not before:
            assert opening is None
            return
        assert opening is not None
        assert opening.epoch > self.newest_epoch
        self.newest_epoch = opening.epoch
        assert len(opening.evicted) == full
        for evicted in opening.evicted:
            assert before[evicted] == min(before.values())
            del self.idle[evicted]
        self.opening.add(edge)

    @precondition(lambda self: self.opening)
    @rule(data=st.data(), succeeds=st.booleans())
    def end_opening(self, data: st.DataObject, *, succeeds: bool) -> None:
        edge = data.draw(st.sampled_from(sorted(self.opening)))
        self.opening.remove(edge)
        if succeeds:
            self.table.on_opened(edge, 52 << 20)
            self.busy.add(edge)
        else:
            self.table.forget(edge)

    @rule(edge=EDGES)
    def use(self, edge: int) -> None:
        epoch = self.table.begin_use(edge)
        assert (epoch is not None) == (edge in self.idle)
        if epoch is not None:
            del self.idle[edge]
            self.busy.add(edge)

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), fails=st.booleans())
    def end_use(self, data: st.DataObject, *, fails: bool) -> None:
        edge = data.draw(st.sampled_from(sorted(self.busy)))
        self.busy.remove(edge)
        if fails:
            self.table.forget(edge)
        else:
            self.table.end_use(edge, self.now_s)
            self.idle[edge] = self.now_s

    @rule(seconds=st.floats(0.1, 30))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        overdue = {edge for edge, used_s in self.idle.items() if self.now_s - used_s >= 10.0}
        assert set(self.table.plan_idle(self.now_s)) == overdue
        for edge in overdue:
            del self.idle[edge]

    @invariant()
    def the_table_knows_what_the_edges_know(self) -> None:
        if not hasattr(self, "table"):
            return
        assert len(self.table) == len(self.held) <= self.table.cap
        states = {EdgeState.OPENING: self.opening, EdgeState.BUSY: self.busy, EdgeState.IDLE: set(self.idle)}
        for state, edges in states.items():
            assert all(self.table.find_state(edge) is state for edge in edges)
        assert self.table.memory_bytes == 52 * (len(self.busy) + len(self.idle)) << 20


TestEdges = Edges.TestCase
TestEdges.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_the_receiving_side_takes_the_epoch_of_the_sender() -> None:
    table = EdgeTable(cap=1, idle_s=10)
    opening = table.plan_opening(1, 0, epoch=77)
    assert opening is not None
    assert (opening.epoch, table.find_epoch(1)) == (77, 77)
