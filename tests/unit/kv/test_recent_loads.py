"""What is remembered of loads that have ended."""

from tandem_worker.kv.loads import LoadResult
from tandem_worker.kv.recent_loads import RecentLoads


def build_result(tokens: int) -> LoadResult:
    return LoadResult("mine", frozenset(), False, tokens, 0, tokens * 10)


def test_the_oldest_is_forgotten_and_a_new_one_of_the_same_id_replaces() -> None:
    recent = RecentLoads(capacity=2)
    for request_id, tokens in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        recent.remember(request_id, "10.0.0.7", build_result(tokens))
    assert recent.find("b") is None
    found = recent.find("a")
    assert found is not None
    assert (found.remote_tokens, found.bytes_received) == (3, 30)
