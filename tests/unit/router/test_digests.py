"""What replicas tell each other: loads, sightings, prefixes, shares; and what a hostile peer can do with that."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.router.scripted import Engine, ask, running

from tandem_api.worker import WorkerState
from tandem_core.keys import encode_key
from tandem_router.digests.membership import JOIN_S, Membership
from tandem_router.digests.mesh import format_address, parse_address
from tandem_router.digests.messages import Digest, FleetLevel, Load, Sighting
from tandem_router.digests.replica import FRESH_S, Replica
from tandem_router.fleets import ALIVE_S, Capacity, Catalog
from tandem_router.settings import parse_settings
from tandem_router.snapshot import FleetSpec, Snapshot, WorkerSpec

PEER = "10.0.0.2:8443"
NOW_S = 100.0


def build_replica(own="10.0.0.1:8443", slots=8):
    specs = tuple(
        WorkerSpec(name, f"uid-{name}", role, "127.0.0.1", 1, 2, "a")
        for name, role in (("p0", "prefill"), ("d0", "decode"))
    )
    catalog = Catalog(Capacity())
    catalog.apply(Snapshot((FleetSpec("ns", "f", "uid-f", "m", workers=specs),)))
    fleet = catalog.fleets["uid-f"]
    for worker in fleet.workers.values():
        fleet.take_state(worker, state(worker, slots), NOW_S)
    membership = Membership(own, NOW_S - JOIN_S)
    membership.discover(["10.0.0.1:8443", PEER], NOW_S)
    return Replica(catalog, membership, f"epoch-{own}")


def state(worker, slots=8, **changes):
    base = {"fleet": "ns/f", "role": worker.spec.role, "kv_revision": "a", "instance": "i1", "ready": True}
    return WorkerState(**(base | {"draining": False, "slots": slots} | changes))


def worker_of(replica, name):
    return next(worker for _, worker in replica.catalog.workers() if worker.name == name)


def digest(**fields):
    return Digest(**({"sender": PEER, "epoch": "e", "tick": 1} | fields))


def sighting(**changes):
    base = {"age_s": 0.1, "instance": "i1", "ready": True, "draining": False}
    return Sighting(**(base | changes))


def test_a_peers_load_counts_while_it_is_fresh():
    replica = build_replica()
    replica.take(digest(loads={"uid-d0": Load(running=3, tokens=900)}), NOW_S)
    replica.begin_tick(NOW_S)
    worker = worker_of(replica, "d0")
    assert (worker.running, worker.backlog_tokens) == (3, 900)
    replica.begin_tick(NOW_S + FRESH_S + 0.1)
    assert (worker.running, worker.backlog_tokens) == (0, 0)


def test_two_replicas_own_half_each_and_lend_what_is_idle():
    one, two = build_replica(), build_replica(PEER)
    two.membership.discover(["10.0.0.1:8443"], NOW_S)
    for replica in (one, two):
        replica.begin_tick(NOW_S)
        assert worker_of(replica, "d0").allotted == 4
    worker_of(two, "d0").claimed = 4
    for step in range(3):
        now_s = NOW_S + 0.1 * step
        one.begin_tick(now_s)
        two.begin_tick(now_s)
        to_one, to_two = two.digest_for("10.0.0.1:8443", now_s), one.digest_for(PEER, now_s)
        one.take(to_one, now_s)
        two.take(to_two, now_s)
    one.begin_tick(now_s)
    two.begin_tick(now_s)
    assert worker_of(two, "d0").allotted == 5
    assert worker_of(one, "d0").allotted == 3


def test_alone_everything_is_ours():
    replica = build_replica()
    replica.begin_tick(NOW_S)
    assert worker_of(replica, "d0").allotted == 4
    replica.membership.discover([], NOW_S)
    replica.begin_tick(NOW_S + 10.0)
    assert worker_of(replica, "d0").allotted is None


def test_a_sighting_keeps_a_worker_alive_and_news_must_be_seen():
    replica = build_replica()
    worker = worker_of(replica, "d0")
    later_s = NOW_S + 3.0
    assert replica.take(digest(sightings={"uid-d0": sighting(waiting=7)}), later_s) == []
    assert worker.is_alive(NOW_S + 3.0 + ALIVE_S - 0.2)
    assert worker.state.waiting == 7
    for tick, news in enumerate(({"ready": False}, {"draining": True}, {"instance": "other"}), start=2):
        told = replica.take(digest(tick=tick, sightings={"uid-d0": sighting(**news)}), later_s)
        assert [one.name for _, one in told] == ["d0"]
        assert worker.is_usable(later_s), "on a peer's word alone nothing is given up"


def test_a_worker_that_does_not_answer_us_is_not_kept_alive_by_others():
    replica = build_replica()
    worker = worker_of(replica, "d0")
    worker.is_mute = True
    replica.take(digest(sightings={"uid-d0": sighting()}), NOW_S + 3.0)
    assert not worker.is_alive(NOW_S + ALIVE_S + 0.1)


def test_prefixes_are_learned_from_peers_and_told_once():
    replica = build_replica()
    replica.take(digest(inserts={"uid-p0": [1, 2, 3]}), NOW_S)
    bit = worker_of(replica, "p0").bit
    assert replica.catalog.index.hits([1, 2, 3], [bit]) == {bit: 3}
    replica.begin_tick(NOW_S)
    replica.note_inserts(worker_of(replica, "d0"), [7, 8])
    assert replica.digest_for(PEER, NOW_S).inserts == {"uid-d0": [7, 8]}
    replica.end_tick()
    assert replica.digest_for(PEER, NOW_S).inserts == {}


def test_what_is_late_repeated_or_from_a_stranger_is_not_taken():
    replica = build_replica()
    replica.take(digest(tick=5, loads={"uid-d0": Load(running=1)}), NOW_S)
    for old in (digest(tick=4), digest(tick=5), digest(sender="9.9.9.9:1", tick=9)):
        assert replica.take(old, NOW_S) == []
    assert replica.views[PEER].tick == 5
    assert list(replica.views) == [PEER]
    replica.take(digest(epoch="restarted", tick=1), NOW_S)
    assert (replica.views[PEER].epoch, replica.views[PEER].tick) == ("restarted", 1)


def test_one_of_the_replicas_owns_each_worker():
    one, two = build_replica(), build_replica(PEER)
    two.membership.discover(["10.0.0.1:8443"], NOW_S)
    for name in ("p0", "d0"):
        assert one.owns(worker_of(one, name), NOW_S) != two.owns(worker_of(two, name), NOW_S)


counts = st.integers(0, 10_000_000_000)
uids = st.sampled_from(["uid-p0", "uid-d0", "uid-x"])
hostile = st.builds(
    Digest,
    sender=st.just(PEER),
    epoch=st.sampled_from(["e", "f"]),
    tick=st.integers(1, 50),
    heard=st.integers(0, 60),
    heard_epoch=st.sampled_from(["", "epoch-10.0.0.1:8443"]),
    draining=st.booleans(),
    loads=st.dictionaries(uids, st.builds(Load, running=counts, tokens=counts, beyond=counts, wants=counts)),
    sightings=st.dictionaries(
        uids,
        st.builds(
            Sighting,
            age_s=st.floats(0, 3600),
            instance=st.sampled_from(["i1", "i2"]),
            ready=st.booleans(),
            draining=st.booleans(),
            waiting=counts,
            circuits_open=st.sampled_from([(), ("127.0.0.1",)]),
        ),
    ),
    lent=st.dictionaries(uids, counts),
    inserts=st.dictionaries(uids, st.lists(st.integers(0, 2**64 - 1), max_size=20)),
    fleets=st.dictionaries(uids, st.builds(FleetLevel, queued=counts)),
)


@settings(max_examples=15)
@given(st.lists(hostile, max_size=5))
def test_a_hostile_peer_takes_no_worker_away_and_gives_no_more_slots_than_there_are(digests):
    replica = build_replica()
    for step, one in enumerate(digests):
        now_s = NOW_S + 0.1 * step
        replica.begin_tick(now_s)
        replica.digest_for(PEER, now_s)
        replica.take(one, now_s)
    now_s = NOW_S + 0.1 * len(digests)
    replica.begin_tick(now_s)
    for _, worker in replica.catalog.workers():
        assert worker.is_usable(now_s)
        assert 0 <= worker.allotted <= worker.slots
        assert worker.running <= worker.slots
        assert (worker.state.instance, worker.state.slots) == ("i1", 8)
    replica.begin_tick(now_s + 2.0)  # two seconds after it has fallen silent, all is as before
    assert worker_of(replica, "d0").allotted == 4
    assert worker_of(replica, "d0").running == 0


@pytest.mark.parametrize("text", ["10.0.0.1:8443", "[fd00::1]:8443", "router.example:80"])
def test_addresses_are_read_as_they_are_written(text):
    found = parse_address(text)
    assert format_address(found.host, found.port) == text


@pytest.mark.parametrize("text", ["", ":80", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:x", "10.0.0.1:70000"])
def test_what_is_no_address_is_refused_with_the_flags_name(text, capsys):
    with pytest.raises(SystemExit):
        parse_settings(["--peer", text], {})
    assert "--peer" in capsys.readouterr().err


# --- over the wire ----------------------------------------------------------------------------------------------------


async def test_requests_are_answered_whatever_a_peer_says(tmp_path):
    (tmp_path / "router.key").write_text(encode_key(bytes(range(32))))
    dice = random.Random(7)
    engines = [Engine("p0", "prefill"), Engine("p1", "prefill"), Engine("d0", "decode"), Engine("d1", "decode")]
    async with running(tmp_path, engines, peers=("127.0.0.1:9",)) as bench:
        replica = bench.router.peering.replica
        uids = [worker.spec.uid for _, worker in bench.router.catalog.workers()]
        await asyncio.sleep(JOIN_S)

        async def lie():
            for tick in range(1, 200):
                loads = {uid: Load(running=10**9, tokens=10**9, wants=10**9, beyond=10**9) for uid in uids}
                told = {uid: sighting(instance="x", ready=dice.random() < 0.5, draining=True) for uid in uids}
                lent = dict.fromkeys(uids, 10**9)
                replica.take(
                    digest(sender="127.0.0.1:9", tick=tick, loads=loads, sightings=told, lent=lent),
                    asyncio.get_running_loop().time(),
                )
                await asyncio.sleep(0.005)

        lying = asyncio.create_task(lie())
        answers = [await ask(bench) for _ in range(40)]
        lying.cancel()
        assert {answer.status for answer in answers} == {200}
        bench.assert_idle()
