"""Queue order: who can wait least goes first, who is late steps back, nobody starves."""

from hypothesis import given
from hypothesis import strategies as st

from tandem_core.discipline import DeadlineQueue, deferred_start_s, latest_start_s


def test_the_request_that_can_wait_least_starts_first():
    """A long prompt with the same target must start earlier than a short one that came before."""
    queue: DeadlineQueue[str] = DeadlineQueue()
    queue.push("short", latest_start_s(0.0, 2.0, 0.1), 2.0)
    queue.push("long", latest_start_s(0.1, 2.0, 1.5), 2.0)
    assert [queue.pop(0.2), queue.pop(0.2)] == ["long", "short"]


def test_equal_requests_leave_in_order_of_arrival():
    """No starvation among equals."""
    queue: DeadlineQueue[int] = DeadlineQueue()
    for number in range(50):
        queue.push(number, 1.0, 1.0)
    assert [queue.pop(0.0) for _ in range(50)] == list(range(50))


def test_a_late_request_gives_way_to_one_that_can_be_saved():
    """Serving the late one first would make both late."""
    queue: DeadlineQueue[str] = DeadlineQueue()
    queue.push("late", 1.0, 2.0)
    queue.push("savable", 2.5, 2.0)
    assert queue.pop(2.0) == "savable"
    assert queue.pop(2.0) == "late"


def test_a_late_request_is_not_starved_by_endless_new_ones():
    """Its doubled target passes as well: it leaves within a few targets."""
    queue: DeadlineQueue[str] = DeadlineQueue()
    queue.push("late", 1.0, 2.0)
    now = 1.5
    for _ in range(100):
        queue.push("new", now + 2.0, 2.0)
        if queue.pop(now) == "late":
            break
        now += 0.1
    assert now < 5.0


def test_a_request_whose_client_left_is_dropped():
    """And the order of the others stays."""
    queue: DeadlineQueue[str] = DeadlineQueue()
    for name, latest in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        queue.push(name, latest, 1.0)
    assert queue.remove("b")
    assert not queue.remove("b")
    assert [queue.pop(0.0), queue.pop(0.0)] == ["a", "c"]


@given(st.floats(-100, 100), st.floats(0.001, 50), st.floats(0, 1000))
def test_a_deferred_start_lies_ahead_and_not_too_far(latest, target, waited):
    """Never before now, and at most about twice the lateness away."""
    now = latest + waited
    deferred = deferred_start_s(latest, target, now)
    assert deferred >= now
    assert deferred - latest <= max(2 * waited + target, target) + 1e-6


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 5)), max_size=40), st.floats(0, 20))
def test_everything_that_enters_leaves_once(entries, now):
    """Whatever the times, the queue neither loses nor doubles a request."""
    queue: DeadlineQueue[int] = DeadlineQueue()
    for number, (latest, target) in enumerate(entries):
        queue.push(number, latest, target)
    assert sorted(queue.pop(now) for _ in range(len(entries))) == list(range(len(entries)))
    assert len(queue) == 0
