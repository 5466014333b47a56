"""Probes: each edge gets its turn, no fleet more than one a minute, and what is known is of engines that run."""

from hypothesis import given
from hypothesis import strategies as st

from tandem_router.probes.edges import INTERVAL_S, SETTLE_S, Edge, EdgeBook, Finding


def edges_of(prefills, decodes):
    return [Edge("a", f"p{p}", "1", f"d{d}", "1") for p in range(prefills) for d in range(decodes)]


@given(st.integers(1, 4), st.integers(1, 4), st.sets(st.integers(0, 15)))
def test_every_edge_is_probed_in_turn_and_failing_ones_again(prefills, decodes, broken):
    book, edges, now_s = EdgeBook(), edges_of(prefills, decodes), 0.0
    book.keep(edges, now_s)
    assert book.choose(now_s) is None
    now_s += SETTLE_S
    chosen = []
    for _ in range(2 * len(edges)):
        edge = book.choose(now_s)
        if edge is not None:
            assert book.choose(now_s + INTERVAL_S / 2) is None
            chosen.append(edge)
            book.note(edge, Finding(edges.index(edge) not in broken, now_s))
        now_s += INTERVAL_S
    assert sorted(set(chosen)) == sorted(edges)
    failing = [edge for number, edge in enumerate(edges) if number in broken]
    assert book.counts() == (len(edges) - len(failing), len(failing), 0)
    assert all(chosen.count(edge) == 1 for edge in edges if edge not in failing)
    assert all(chosen.count(edge) >= 2 for edge in failing)


def test_workers_without_any_proof_come_first():
    book = EdgeBook()
    book.keep(edges_of(2, 2), 0.0)
    first = book.choose(SETTLE_S)
    book.note(first, Finding(True, SETTLE_S))
    second = book.choose(SETTLE_S + INTERVAL_S)
    assert first.prefill != second.prefill
    assert first.decode != second.decode


def test_a_restarted_engine_is_untested_and_traffic_is_asked_about_once_a_minute():
    book, (edge,) = EdgeBook(), edges_of(1, 1)
    book.keep([edge], 0.0)
    assert book.wants_proof(edge, 1.0)
    assert not book.wants_proof(edge, 2.0)
    assert book.wants_proof(edge, 1.0 + INTERVAL_S)
    book.note(edge, Finding(True, 1.0))
    assert book.choose(1000.0) is None
    book.keep([edge._replace(decode_start="2")], 2.0)
    assert book.counts() == (0, 0, 1)
    book.note(edge, Finding(True, 3.0))
    assert book.counts() == (0, 0, 1), "news of an engine that is gone"
