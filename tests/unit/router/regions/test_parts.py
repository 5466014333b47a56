"""The parts between the lines and the choice: what a peer said, what was sent there, what home is, what is told."""

import asyncio
import json

from hypothesis import given
from hypothesis import strategies as st

from tandem_api.regions import RegionMatrix
from tandem_api.router import DemandAnswer
from tandem_api.worker import Role, WorkerState
from tandem_router.digests.messages import FleetLevel
from tandem_router.fleets import Capacity, Fleet, Worker
from tandem_router.regions.atlas import Atlas
from tandem_router.regions.broadcast import Broadcaster
from tandem_router.regions.home import ASSUMED_TOKENS_PER_S, build_load, room_of
from tandem_router.regions.load import FleetLoad
from tandem_router.regions.matrix import build_matrix, build_words
from tandem_router.regions.messages import FleetDigest, RegionDigest
from tandem_router.regions.peer import Peer
from tandem_router.regions.residency import clause_of, is_allowed
from tandem_router.regions.sent import SETTLING_S, SentLately
from tandem_router.regions.tally import RegionTally
from tandem_router.snapshot import FleetSpec, RegionSpec, WorkerSpec

US = RegionSpec("us", "http://us:8443", (("j", "us"),))


def digest(region="us", *, full=False, gone=(), drain=False, **fleets):
    told = {key.replace("_", "/"): FleetDigest(served_name="m", **fields) for key, fields in fleets.items()}
    return RegionDigest(region=region, full=full, gone=gone, drain=drain, fleets=told)


def test_a_peer_is_what_its_newest_stream_says():
    peer = Peer(US, 1)
    peer.hear("one", digest(full=True, a_b={"free_slots": 5}), 1.0)
    peer.hear("two", digest(full=True, a_b={"free_slots": 9}), 1.05)
    assert peer.digest("a/b").free_slots == 9
    peer.hear("one", digest(), 1.1)
    assert peer.digest("a/b").free_slots == 5, "nothing new on the stream that is newest now"
    peer.hear("one", digest(gone=("a/b",)), 1.2)
    assert peer.digest("a/b") is None
    peer.close("one")
    assert peer.digest("a/b").free_slots == 9


def test_a_fleet_of_another_name_is_another_fleet():
    peer = Peer(US, 1)
    fields = {"prefill_workers": 1, "worker_tokens_per_s": 10.0}
    peer.hear("one", digest(full=True, a_b=fields), 1.0)
    assert peer.load("a/b", "m").can_serve
    assert not peer.load("a/b", "n").can_serve
    assert not peer.load("a/c", "m").can_serve


def test_a_peer_that_says_it_is_drained_or_whose_object_says_so_is_given_nothing():
    peer = Peer(US, 1)
    peer.hear("one", digest(full=True, drain=True), 1.0)
    assert (peer.accepts(1.0), peer.look(1.0), peer.state) == (0.0, True, "drained")
    peer.hear("one", digest(), 1.1)
    assert peer.accepts(1.1) == 1.0
    peer.spec = RegionSpec("us", "http://us:8443", drain=True)
    assert peer.accepts(1.1) == 0.0
    assert Peer(RegionSpec("us"), 1).accepts(1.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 5000)), max_size=30), st.floats(0, 60))
def test_what_was_sent_since_a_digest_is_what_it_cannot_know(sendings, until_s):
    sent, now_s, kept = SentLately(), 0.0, []
    for gap_s, tokens in sendings:
        now_s += gap_s
        sent.note(now_s, tokens)
        kept.append((now_s, tokens))
    late = [tokens for at_s, tokens in kept if at_s > until_s]
    assert sent.since(until_s) == (len(late), sum(late))
    assert sent.since(until_s) == (len(late), sum(late)), "asking twice forgets nothing more"


def test_requests_under_way_count_until_a_digest_can_know_them():
    peer = Peer(US, 1)
    peer.measure(0.1)
    peer.hear("one", digest(full=True), 1.0)
    peer.note_sent("a/b", 500, 1.0)
    peer.hear("one", digest(), 1.0 + 0.1 + SETTLING_S - 0.01)
    assert peer.sent_since("a/b") == (1, 500)
    peer.hear("one", digest(), 1.0 + 0.1 + SETTLING_S + 0.01)
    assert peer.sent_since("a/b") == (0, 0)


def test_a_way_that_has_become_long_is_believed_at_once_and_noise_is_smoothed():
    peer = Peer(US, 1)
    peer.measure(0.010)
    peer.measure(0.030)
    assert 0.010 < peer.rtt_s < 0.020
    peer.measure(0.3)
    assert peer.rtt_s == 0.3


def worker(name, role="mixed", slots=8, kv_usage=0.0):
    spec = WorkerSpec(name, name, role, "127.0.0.1", 1, None, "k")
    made = Worker(spec, 1, 8)
    fields = {"fleet": "a/b", "role": Role(role), "kv_revision": "k", "instance": "i", "ready": True, "draining": False}
    made.state = WorkerState(**fields, slots=slots, kv_usage=kv_usage)
    return made


def fleet_of(*workers):
    fleet = Fleet(FleetSpec("a", "b", "u", "m"), Capacity())
    fleet.workers = {one.spec.uid: one for one in workers}
    return fleet


async def test_home_counts_what_all_of_its_routers_have():
    prefill, decode = worker("p", "prefill"), worker("d", "decode")
    prefill.claimed, prefill.claimed_tokens, prefill.peer_running, prefill.peer_tokens = 1, 100, 1, 50
    decode.claimed, decode.peer_running = 2, 3
    load = build_load(fleet_of(prefill, decode), [FleetLevel(queued=2, queued_tokens=700, waiting_decode=1)], 0.0)
    assert load == FleetLoad(850.0, 1, ASSUMED_TOKENS_PER_S, 3, 0, 1)
    assert not build_load(fleet_of(worker("p", "prefill")), [], 0.0).can_serve, "nobody there answers clients"
    assert build_load(fleet_of(worker("m")), [], 0.0).idle_workers == 1


def test_a_decode_worker_has_room_within_slots_and_memory():
    assert room_of(worker("d"), None) == 8
    busy = worker("d", kv_usage=0.6)
    busy.claimed = 4
    assert room_of(busy, None) == 2, "each of the four holds 15 % of its KV cache"
    full = worker("d", kv_usage=0.99)
    full.claimed = 4
    assert room_of(full, None) == 0


def test_the_matrix_and_the_words_are_what_their_readers_expect():
    atlas = Atlas(RegionSpec("eu"), lambda _key, _now_s: FleetLoad())
    atlas.apply([US, RegionSpec("ap")])
    load = {
        "prefill_workers": 1,
        "worker_tokens_per_s": 1000.0,
        "free_slots": 4,
        "uncoverable": {"decodeSequences": 2.0},
    }
    atlas.peers["us"].hear("one", digest(full=True, a_b=load, c_d={"free_slots": 1}), 5.0)
    atlas.peers["us"].look(5.0)
    tally = RegionTally()
    tally.forwards["us", "ok"] += 3
    tally.forwards["us", "refused"] += 1
    read = RegionMatrix.model_validate_json(json.dumps(build_matrix(atlas, tally, 6.0)))
    us = read.peers["us"]
    assert (us.state, us.headroom_slots, us.spilled_total, us.failures_total) == ("up", 5, 4, 1)
    assert us.uncoverable == {"a/b": {"decodeSequences": 2.0}}
    assert read.peers["ap"].state == "no_url"
    own = {"a/b": (None, {"decodeSequences": 7.0}), "c/d": (None, {"decodeSequences": 1.0})}
    answer = {
        "replica": "r",
        "epoch": "e",
        "now_s": 1.0,
        "covers_from": 0,
        "cursor": 1,
        "regions": build_words(atlas, own),
    }
    words = DemandAnswer.model_validate_json(json.dumps(answer)).regions
    assert {name: word.fresh for name, word in words.items()} == {"eu": True, "us": True, "ap": False}
    assert set(words["eu"].fleets) == {"a/b"}, "nobody needs help with the other"
    assert words["eu"].fleets["a/b"].room.decode_sequences == 7.0


def test_a_peer_at_another_place_is_another_peer_and_bits_are_used_again():
    atlas = Atlas(RegionSpec("eu"), lambda _key, _now_s: FleetLoad())
    atlas.apply([US, RegionSpec("ap", "http://ap")])
    first = atlas.peers["us"]
    atlas.apply([RegionSpec("us", "http://us:8443", drain=True), RegionSpec("ap", "http://ap")])
    assert atlas.peers["us"] is first
    assert first.spec.drain
    atlas.apply([RegionSpec("us", "http://elsewhere"), RegionSpec("ap", "http://ap")])
    assert atlas.peers["us"] is not first
    assert len({peer.bit for peer in atlas.peers.values()}) == 2


clauses = st.lists(st.frozensets(st.sampled_from(["eu", "us", "j=eu", "j=us", "mars"]), max_size=3), max_size=3)


@given(clauses, st.sampled_from(["eu", "us"]), st.sampled_from(["eu", "us", ""]))
def test_more_clauses_never_allow_more(entries, region, label):
    residency, labels = tuple(entries), {"j": label} if label else {}
    for cut in range(len(residency)):
        if is_allowed(residency, region, labels):
            assert is_allowed(residency[:cut], region, labels)
    assert not is_allowed((*residency, frozenset()), region, labels)
    assert clause_of(None) == ()


class Reader:
    """A writer that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def begin(self, status, headers, length, first):
        self.write(first)

    def write(self, data):
        self.lines += [json.loads(line) for line in data.splitlines()]

    def on_flow(self, flow):
        self.flow = flow

    def end(self):
        self.lines.append("end")


async def test_streams_tell_all_first_then_what_is_new_and_say_when_they_end():
    fleets = {"a/b": {"servedName": "m", "freeSlots": 1}, "c/d": {"servedName": "n"}}
    broadcaster, reader = Broadcaster("eu", "r1", lambda: (dict(fleets), False)), Reader()
    serving = asyncio.create_task(broadcaster.serve(reader))
    await asyncio.sleep(0)
    broadcaster.tick()
    broadcaster.tick()
    fleets["a/b"] = {"servedName": "m", "freeSlots": 0}
    del fleets["c/d"]
    broadcaster.tick()
    reader.flow(False)
    fleets["e/f"] = {"servedName": "o"}
    broadcaster.tick()
    reader.flow(True)
    broadcaster.tick()
    broadcaster.say_goaway()
    await serving
    first, full, nothing, changed, caught_up, goaway, end = reader.lines
    assert set(first["fleets"]) == set(full["fleets"]) == {"a/b", "c/d"}
    assert (nothing["fleets"], nothing["gone"]) == ({}, [])
    assert (changed["fleets"], changed["gone"]) == ({"a/b": {"servedName": "m", "freeSlots": 0}}, ["c/d"])
    assert caught_up["full"], "a reader that was slow is told all"
    assert set(caught_up["fleets"]) == {"a/b", "e/f"}
    assert (goaway["goaway"], end) == (True, "end")
    assert RegionDigest.model_validate_json(json.dumps(full)).fleets["a/b"].free_slots == 1
