"""Shares of slots between replicas: the sum never exceeds the whole, whatever is lost, late, repeated or reordered."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_router.digests.lending import LOAN_S, Lending
from tandem_router.digests.membership import GRACE_S, JOIN_S, Membership
from tandem_router.digests.ownership import base_share, choose_owner

members_lists = st.lists(st.integers(0, 99).map(lambda n: f"10.0.0.{n}:8443"), min_size=1, max_size=7, unique=True)


@given(members_lists, st.integers(0, 1000), st.text(max_size=5))
def test_own_parts_sum_to_the_whole(members, slots, thing):
    shares = [base_share(thing, slots, member, members) for member in members]
    assert sum(shares) == slots
    assert max(shares) - min(shares) <= 1
    assert base_share(thing, slots, "stranger", members) == 0


@given(members_lists, st.text(max_size=5))
def test_everybody_agrees_on_the_owner_and_a_leaver_moves_only_its_own(members, thing):
    owner = choose_owner(thing, members)
    assert owner == choose_owner(thing, members[::-1])
    left = [member for member in members if member != members[0]]
    if left and owner != members[0]:
        assert choose_owner(thing, left) == owner


@dataclass
class Side:
    """One replica with one worker, as `Replica` uses `Lending`; its clock is off by `skew_s`."""

    name: str
    own: int
    skew_s: float
    lending: Lending = field(default_factory=Lending)
    claimed: int = 0
    tick: int = 0
    sent_s: dict[int, float] = field(default_factory=dict)
    heard: dict[str, int] = field(default_factory=dict)
    wants: dict[str, int] = field(default_factory=dict)

    def allotment(self, now_s):
        now_s += self.skew_s
        return self.own - self.lending.lent_out("w", now_s) + self.lending.borrowed("w", now_s)

    def message(self, peer, wanted, now_s):
        self.tick += 1
        self.sent_s[self.tick] = now_s + self.skew_s
        wants = self.wants.get(peer.name, 0)
        lent = self.lending.lend(peer.name, {"w": wants}, {"w": self.own - self.claimed}, now_s + self.skew_s)
        beyond = max(0, self.claimed - self.own)
        return (self.name, self.tick, self.heard.get(peer.name, 0), wanted, beyond, lent)

    def take(self, message, now_s):
        sender, tick, heard, wanted, beyond, lent = message
        if tick <= self.heard.get(sender, 0):
            return
        self.heard[sender] = tick
        self.wants[sender] = wanted
        self.lending.note_use(sender, {"w": beyond})
        if heard in self.sent_s:
            self.lending.borrow(sender, lent, self.sent_s[heard])


events = st.lists(
    st.tuples(
        st.sampled_from(["send", "deliver", "repeat", "drop", "claim", "release", "wait"]),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 8),
    ),
    max_size=120,
)


@settings(max_examples=150)
@given(st.integers(0, 8), st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), events)
def test_shares_never_sum_above_the_whole(slots, skews, steps):
    names = ["a", "b", "c"]
    sides = [Side(name, base_share("w", slots, name, names), skew) for name, skew in zip(names, skews, strict=True)]
    flying, now_s = [], 0.0
    for kind, one, other, amount in steps:
        now_s += 0.01
        if kind == "send" and one != other:
            flying.append((other, sides[one].message(sides[other], amount, now_s)))
        elif kind in ("deliver", "repeat", "drop") and flying:
            place = amount % len(flying)
            to, message = flying[place] if kind == "repeat" else flying.pop(place)
            if kind != "drop":
                sides[to].take(message, now_s)
        elif kind == "claim" and sides[one].claimed < sides[one].allotment(now_s):
            sides[one].claimed += 1
        elif kind == "release" and sides[one].claimed:
            sides[one].claimed -= 1
        elif kind == "wait":
            now_s += amount * LOAN_S / 5
        assert sum(side.allotment(now_s) for side in sides) <= slots
        assert all(side.allotment(now_s) >= 0 for side in sides)


def exchange(giver, taker, wanted, now_s):
    giver.take(taker.message(giver, wanted, now_s), now_s)
    taker.take(giver.message(taker, 0, now_s), now_s)


def test_what_is_idle_is_lent_and_comes_back_when_it_is_not_renewed():
    a, b = Side("a", 4, 0.0), Side("b", 4, 1000.0)
    exchange(a, b, 3, 0.0)
    assert (a.allotment(0.0), b.allotment(0.0)) == (1, 7)
    later_s = LOAN_S + 0.01
    assert (a.allotment(later_s), b.allotment(later_s)) == (4, 4)


def test_a_request_on_a_borrowed_slot_keeps_it_until_it_ends():
    a, b = Side("a", 1, 0.0), Side("b", 0, 0.0)
    exchange(a, b, 1, 0.0)
    b.claimed = 1
    later_s = LOAN_S * 0.9
    exchange(a, b, 0, later_s)
    assert a.allotment(LOAN_S * 3) == 0, "b still runs there, as it said"
    b.claimed = 0
    exchange(a, b, 0, LOAN_S * 3)
    assert a.allotment(LOAN_S * 3) == 1


def test_a_silent_replica_keeps_its_share_and_one_that_refuses_loses_it_after_a_while():
    one = Membership("a", 0.0)
    one.discover(["b", "c"], 0.0)
    assert one.members(100.0) == ["a", "b", "c"]
    one.note_refused("b", 100.0)
    assert one.members(100.0 + GRACE_S / 2) == ["a", "b", "c"]
    assert one.members(100.0 + GRACE_S) == ["a", "c"]
    assert "b" in one.peers(), "it may come back"
    one.note_answer("b")
    assert one.members(103.0) == ["a", "b", "c"]


def test_a_replica_that_leaves_is_waited_for_and_a_newcomer_waits():
    one = Membership("a", 0.0)
    assert one.may_use_own(0.0), "alone there is nobody to wait for"
    one.discover(["b"], 0.0)
    assert not one.may_use_own(JOIN_S / 2)
    assert one.may_use_own(JOIN_S)
    one.discover([], 10.0)
    assert one.members(10.0 + GRACE_S / 2) == ["a", "b"]
    assert one.members(10.0 + GRACE_S) == ["a"]
