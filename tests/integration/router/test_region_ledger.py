"""Three regions under load while they are hurt: every request ends once, typed, and never where it may not."""

import asyncio
import random
from collections import Counter

import pytest
from unit.router.regions.two_regions import world
from unit.router.scripted import chat, connected_to, http_post, read_answer, token_chunk, usage_of

from tandem_router.gateway.api_keys import hash_api_key
from tandem_router.regions.atlas import Atlas, Journey
from tandem_router.regions.load import FleetLoad
from tandem_router.regions.messages import FleetDigest, RegionDigest
from tandem_router.regions.residency import is_allowed
from tandem_router.snapshot import RegionSpec

pytestmark = pytest.mark.long

LABELS = {"eu": {"jurisdiction": "eu"}, "us": {"jurisdiction": "us"}, "de": {"jurisdiction": "eu"}}
RIGHTS = {
    "free": ("", set(LABELS)),
    "eu-only": (", regions: [eu]", {"eu"}),
    "lawful": (', regions: ["jurisdiction=eu"]', {"eu", "de"}),
    "not-home": (", regions: [us, de]", {"us", "de"}),
}
TENANTS = "tenants:\n" + "".join(
    f'- {{name: {name}, apiKeys: [{{id: k, hash: "{hash_api_key(name)}"}}]{more}}}\n'
    for name, (more, _) in RIGHTS.items()
)
REQUESTS = 3000
AT_ONCE = 24


async def stream_briefly(seen, channel):
    """Four tokens in 40 ms."""
    if not seen.json.get("stream"):
        await asyncio.sleep(0.03)
        await channel.json(200, {"choices": [token_chunk("x")], "usage": usage_of(4)})
        return
    await channel.begin_stream()
    for _ in range(4):
        await asyncio.sleep(0.01)
        await channel.event(token_chunk("x"))
    await channel.event("[DONE]")
    await channel.end_stream()


class Ledger:
    """How every request ended."""

    def __init__(self, made):
        self.made = made
        self.ends = Counter()
        self.breaches = []
        self.lost = []

    async def ask(self, draw):
        region, tenant, stream = draw.choice(sorted(LABELS)), draw.choice(sorted(RIGHTS)), draw.random() < 0.7
        request = http_post(chat(stream=stream), headers=f"Authorization: Bearer {tenant}\r\n")
        async with connected_to(self.made[region].router.port) as (reader, writer):
            writer.write(request)
            answer = await asyncio.wait_for(read_answer(reader), 120)
        served = answer.headers.get("x-tandem-region")
        if answer.status == 200 and served not in RIGHTS[tenant][1]:
            self.breaches.append((region, tenant, served))
        if answer.status == 200 and answer.is_whole:
            self.ends["whole"] += 1
        elif answer.status == 200 and b"stream_broken" in answer.body:
            self.ends["typed break"] += 1
        else:
            self.ends[f"{answer.status}"] += 1
            self.lost.append((region, tenant, answer.status, answer.body[-200:]))


async def hurt(made):
    """One after the other: partition both ways and one way, a slow line, a drained region, one without workers."""
    for wire in (made.wires["eu", "us"], made.wires["us", "eu"]):
        wire.there = wire.back = False
    await asyncio.sleep(3)
    for wire in (made.wires["eu", "us"], made.wires["us", "eu"]):
        wire.there = wire.back = True
    made.wires["de", "us"].there = False
    await asyncio.sleep(3)
    made.wires["de", "us"].there = True
    made.wires["eu", "de"].delay_s = 0.1
    await asyncio.sleep(3)
    made.wires["eu", "de"].delay_s = 0.0
    made["us"].write(drain=True, labels=LABELS["us"])
    await asyncio.sleep(3)
    made["us"].write(labels=LABELS["us"])
    kept, made["de"].engines = made["de"].engines, {}
    made["de"].write(labels=LABELS["de"])
    await asyncio.sleep(3)
    made["de"].engines = kept
    made["de"].write(labels=LABELS["de"])


async def test_every_request_ends_once_and_where_it_may(tmp_path):
    async with world(tmp_path, {"eu": 2, "us": 2, "de": 2}, labels=LABELS, tenants=TENANTS) as made:
        for region in made.regions.values():
            for engine in region.engines.values():
                engine.behave = stream_briefly
        ledger, draw, turns = Ledger(made), random.Random(7), asyncio.Semaphore(AT_ONCE)
        hurting = asyncio.create_task(hurt(made))

        async def one():
            async with turns:
                await ledger.ask(draw)

        asked = 0
        while asked < REQUESTS or not hurting.done():
            await asyncio.gather(*(one() for _ in range(AT_ONCE)))
            asked += AT_ONCE
        await hurting
        print(asked, dict(ledger.ends))
        assert ledger.breaches == []
        # Whoever may be served in eu only and asks in us has nobody while the two are parted; all others have somebody.
        assert {one[:2] for one in ledger.lost} <= {("us", "eu-only")}, ledger.lost
        assert {one[2] for one in ledger.lost} <= {502, 503}
        assert ledger.ends["typed break"] <= 3 * AT_ONCE, "only answers that had begun behind a line that was cut"
        assert sum(ledger.ends.values()) == asked
        for region in made.regions.values():
            assert region.router.metrics.of("m").inflight == 0


def test_a_hundred_thousand_choices_break_no_residency():
    draw, now_s = random.Random(3), 0.0
    atlas = Atlas(RegionSpec("eu", labels=(("j", "eu"),)), lambda _key, _now_s: load_of(draw))
    names = ("us", "de", "ap")
    atlas.apply([atlas.own, *(RegionSpec(n, f"http://{n}", (("j", "eu" if n == "de" else n),)) for n in names)])
    specs = {spec.name: spec for spec in (atlas.own, *(peer.spec for peer in atlas.peers.values()))}
    entries = [*specs, "j=eu", "j=us", "mars"]
    chosen = Counter()
    for _ in range(100_000):
        now_s += 0.005
        peer = atlas.peers[draw.choice(names)]
        if draw.random() < 0.5:
            load = load_of(draw)
            digest = FleetDigest(
                served_name="m", queued_tokens=load.queued_tokens, prefill_workers=load.prefill_workers,
                worker_tokens_per_s=load.worker_tokens_per_s, free_slots=load.free_slots,
            )  # fmt: skip
            peer.hear("one", RegionDigest(region=peer.name, full=True, fleets={"a/b": digest}), now_s)
        elif draw.random() < 0.2:
            peer.health.refuse(now_s)
        residency = tuple(frozenset(draw.sample(entries, draw.randint(1, 3))) for _ in range(draw.randint(0, 2)))
        journey = Journey("a/b", "m", 1000, 0, (), 64.0, 2.0, "t", draw.choice((0.0, 0.5, 1.0)), residency)
        atlas.arrive(journey)
        tried = {draw.choice(names)} if draw.random() < 0.3 else set()
        choice = atlas.choose(journey, tried, now_s, draw.random())
        chosen[choice.region] += 1
        if choice.region is not None:
            assert is_allowed(residency, choice.region, dict(specs[choice.region].labels))
            assert choice.region not in tried
            atlas.send(journey, choice, now_s)
    assert min(chosen[name] for name in (*specs, None)) > 1000, chosen


def load_of(draw):
    if draw.random() < 0.2:
        return FleetLoad()
    return FleetLoad(draw.uniform(0, 50_000), draw.randint(1, 8), draw.uniform(1000, 20_000), draw.randint(0, 40))
