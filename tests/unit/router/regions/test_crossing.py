"""Routers of two and three regions, joined by lines that can be cut: what crosses, what may not, and what is lost."""

import asyncio
import json
import time
from unittest.mock import patch

import pytest
from unit.router.regions.two_regions import TOKEN, world
from unit.router.scripted import chat, connected_to, hang, http_post, read_answer, token_chunk

from tandem_router.gateway.api_keys import hash_api_key
from tandem_router.regions import health
from tandem_router.regions.messages import FORWARD_PATH, PING_PATH, STREAM_PATH

TENANTS = "tenants:\n" + "".join(
    f'- {{name: {name}, apiKeys: [{{id: k, hash: "{hash_api_key(name + "-key")}"}}]{more}}}\n'
    for name, more in (
        ("free", ""),
        ("bound", ", regions: [eu]"),
        ("away", ", regions: [us]"),
        ("lawful", ', regions: ["jurisdiction=eu"]'),
        ("nowhere", ", regions: [mars]"),
        ("limited", ", requestsPerMinute: 4"),
    )
)
LABELS = {"eu": {"jurisdiction": "eu"}, "us": {"jurisdiction": "us"}, "de": {"jurisdiction": "eu"}}


def as_tenant(name):
    return f"Authorization: Bearer {name}-key\r\n"


async def test_a_region_without_workers_has_its_requests_served_by_the_other(tmp_path):
    async with world(tmp_path, {"eu": 0, "us": 1}) as made:
        answer = await made["eu"].ask(stream=True)
        assert (answer.status, answer.is_whole, answer.headers["x-tandem-region"]) == (200, True, "us")
        assert b"[DONE]" in answer.body
        assert b'"usage"' not in answer.body, "the client did not ask for it; the origin did, and keeps it"
        whole = await made["eu"].ask(headers="X-Request-Id: r-17\r\n")
        assert whole.json["usage"]["completion_tokens"] == 4
        assert whole.headers["x-request-id"] == "r-17"
        assert (await made["us"].ask()).headers["x-tandem-region"] == "us"
        metrics = made["eu"].router.metrics.of("m")
        assert metrics.outcomes["ok"] == 2
        assert metrics.tokens["completion"] == 8, "the origin settles by what the engine there counted"
        assert made["us"].router.border.tally.received == {("eu", "ok"): 2}
        await made["eu"].until(lambda: made["eu"].peer("us").rtt_s is not None)
        page = (await made["eu"].send(b"GET /metrics HTTP/1.1\r\nHost: r\r\n\r\n")).body.decode()
        for line in (
            'tandem_router_region_forwards_total{end="ok",region="us"} 2.0',
            'tandem_router_region_choices_total{reason="home_cannot_serve"} ',
            'tandem_router_region_state{region="us",state="up"} ',
            'tandem_router_region_ttft_seconds_count{region="us"} 1.0',  # of the streamed one
            'tandem_router_region_headroom_slots{region="us"} 8.0',
        ):
            assert line in page
        assert 'tandem_router_region_rtt_seconds{region="us"} ' in page


async def test_home_serves_its_own_while_it_is_well(tmp_path):
    async with world(tmp_path, {"eu": 1, "us": 1}) as made:
        answers = await asyncio.gather(*(made["eu"].ask() for _ in range(5)))
        assert {answer.headers["x-tandem-region"] for answer in answers} == {"eu"}
        assert made["us"].served() == 0


async def test_residency_holds_at_the_origin_and_again_at_the_destination(tmp_path):
    async with world(tmp_path, {"eu": 0, "us": 1, "de": 1}, labels=LABELS, tenants=TENANTS) as made:
        eu = made["eu"]
        for _ in range(5):
            assert (await eu.ask(as_tenant("away"))).headers["x-tandem-region"] == "us"
            assert (await eu.ask(as_tenant("lawful"))).headers["x-tandem-region"] == "de"
        bound = asyncio.create_task(eu.ask(as_tenant("bound") + "X-Request-Timeout-Ms: 500\r\n"))
        refused = await eu.ask(as_tenant("nowhere"))
        assert (refused.status, refused.json["error"]["code"]) == (403, "region_not_allowed")
        assert "mars" in refused.json["error"]["message"]
        assert (await bound).status == 504, "its home is the only place: it waits there, and nowhere else"
        forged = {"origin": "eu", "fleet": "default/demo", "deadlineMs": 1000, "residency": [["eu"]]}
        answer = await forward(made["us"], forged)
        assert (answer.status, answer.json["error"]["code"]) == (421, "region_not_allowed")
        by_file = await forward(made["us"], {**forged, "residency": [], "tenant": "bound"})
        assert by_file.json["error"]["code"] == "region_not_allowed", "the destination's own file forbids it too"
        assert made["us"].router.border.tally.refusals == {"received": 2}


def forward(region, order, *, hop="1", token=TOKEN, body=None):
    headers = f"Content-Type: application/json\r\nx-tandem-hop: {hop}\r\nx-tandem-forward: {json.dumps(order)}\r\n"
    text = json.dumps(body or chat()).encode()
    path = f"{FORWARD_PATH}/v1/chat/completions"
    return region.internal(path, token, headers, "POST", text)


async def test_nothing_crosses_twice_and_nobody_sends_to_itself(tmp_path):
    async with world(tmp_path, {"eu": 0, "us": 0}) as made:
        order = {"origin": "eu", "fleet": "default/demo", "deadlineMs": 2000}
        assert (await forward(made["us"], order)).json["error"]["code"] == "no_workers", "and it is not sent back"
        for hop in ("0", "2", "1, 1", ""):
            assert (await forward(made["us"], order, hop=hop)).json["error"]["code"] == "too_many_hops"
        assert (await forward(made["us"], {**order, "origin": "us"})).json["error"]["code"] == "region_loop"
        assert (await forward(made["us"], {"origin": "eu"})).json["error"]["code"] == "invalid_forward"
        assert (await forward(made["us"], {**order, "fleet": "x/y"})).json["error"]["code"] == "fleet_not_here"
        assert (await forward(made["us"], {**order, "v": 9})).json["error"]["code"] == "version_skew"
        client = await made["eu"].ask("x-tandem-hop: 1\r\n")
        assert (client.status, client.json["error"]["code"]) == (400, "header_refused")


async def test_the_region_endpoints_take_their_own_token_and_no_other(tmp_path):
    async with world(tmp_path, {"eu": 1, "us": 1}) as made:
        us = made["us"]
        (us.folder / "token").write_text("new-token\nregion-token-one\n")  # rotated: both are good
        us.router.border.tokens.refresh()
        for path in (PING_PATH, STREAM_PATH):
            for token in ("wrong", "new-token ", "eu", None):
                if token != "new-token ":
                    assert (await us.internal(path, token)).status == 401
        assert (await us.internal(PING_PATH, "new-token")).status == 200
        assert (await us.internal("/internal/v1/regions", TOKEN)).status == 401, "a peer's token opens nothing else"
        assert (await us.internal("/internal/v1/demand", TOKEN)).status == 401
        matrix = (await us.internal("/internal/v1/regions")).json
        assert (matrix["region"], matrix["peers"]["eu"]["state"]) == ("us", "up")
        (us.folder / "token").write_text("only-this\n")
        us.router.border.tokens.refresh()
        made.wires["eu", "us"].cut()
        await made["eu"].until(lambda: "refuses our token" in made["eu"].peer("us").fault)
        await made["eu"].until(lambda: made["eu"].peer("us").accepts(asyncio.get_running_loop().time()) == 0.0)


async def test_a_tenant_is_charged_at_its_origin_and_nowhere_else(tmp_path):
    async with world(tmp_path, {"eu": 0, "us": 1}, tenants=TENANTS) as made:
        answers = [await made["eu"].ask(as_tenant("limited")) for _ in range(5)]
        assert [answer.status for answer in answers] == [200] * 4 + [429]
        assert answers[3].headers["x-ratelimit-remaining-requests"] == "0"
        usage = made["eu"].router.gateway.usage()["tenants"]["limited"]
        assert (usage["requests"], usage["tokens"]["completion"]) == ({"ok": 4}, 16)
        assert made["us"].router.gateway.usage()["tenants"]["limited"]["requests"] == {}
        salt = next(iter(made["us"].engines.values())).seen[0].json["cache_salt"]
        assert (await made["us"].ask(as_tenant("limited"))).status == 200
        assert next(iter(made["us"].engines.values())).seen[-1].json["cache_salt"] == salt, "it shares its own prefixes"


async def test_demand_is_counted_once_and_where_it_arises(tmp_path):
    async with world(tmp_path, {"eu": 0, "us": 1}, tenants=TENANTS, labels=LABELS) as made:
        for tenant in ("free", "free", "away"):
            assert (await made["eu"].ask(as_tenant(tenant))).headers["x-tandem-region"] == "us"
        await asyncio.sleep(1.1)
        counts = {}
        for name in ("eu", "us"):
            answer = (await made[name].internal("/internal/v1/demand")).json
            counts[name] = sum(one["arrivals"] for fleet in answer["fleets"] for one in fleet["bins"])
            assert set(answer["regions"]) == {"eu", "us"}
            assert all(word["fresh"] for word in answer["regions"].values())
        assert counts == {"eu": 2, "us": 1}, "`away` may never be served in eu: it is demand of us"


async def test_a_client_that_leaves_cancels_the_work_in_the_other_region(tmp_path):
    async with world(tmp_path, {"eu": 0, "us": 1}) as made:
        engine = next(iter(made["us"].engines.values()))
        engine.behave = hang
        async with connected_to(made["eu"].router.port) as (_, writer):
            writer.write(http_post(chat(stream=True)))
            await engine.saw_request()
        await asyncio.wait_for(engine.seen[0].closed.wait(), 5)
        await made["eu"].until(lambda: made["eu"].router.metrics.of("m").inflight == 0)
        assert made["eu"].router.border.tally.forwards == {("us", "client_gone"): 1}
        await made["us"].until(lambda: made["us"].router.metrics.of("m").inflight == 0)


async def test_the_deadline_crosses_with_the_request(tmp_path):
    async with world(tmp_path, {"eu": 0, "us": 1}) as made:
        engine = next(iter(made["us"].engines.values()))
        engine.behave = hang
        answer = await made["eu"].ask("X-Request-Timeout-Ms: 400\r\nX-Slo-Ttft-Ms: 1500\r\n")
        assert (answer.status, answer.json["error"]["code"]) == (504, "deadline_exceeded")
        assert int(engine.seen[0].headers["x-request-timeout-ms"]) <= 400
        assert "x-tandem-forward" not in engine.seen[0].headers
        assert "authorization" not in engine.seen[0].headers or TOKEN not in engine.seen[0].headers["authorization"]


def only(region):
    return next(iter(region.engines.values()))


async def test_a_region_that_dies_before_the_first_byte_costs_nobody_an_answer(tmp_path):
    async with world(tmp_path, {"eu": 0, "us": 1, "ap": 1}) as made:
        only(made["us"]).behave = hang
        asking = [asyncio.create_task(made["eu"].ask()) for _ in range(8)]
        await made["eu"].until(lambda: made["us"].served() >= 1 and made["us"].served() + made["ap"].served() == 8)
        made.wires["eu", "us"].is_refusing = True
        made.wires["eu", "us"].cut()
        answers = await asyncio.gather(*asking)
        assert {(answer.status, answer.headers["x-tandem-region"]) for answer in answers} == {(200, "ap")}
        forwards = made["eu"].router.border.tally.forwards
        assert forwards["us", "unreachable"] == made["us"].served()
        await made["eu"].until(lambda: made["eu"].peer("us").state == "down")


async def test_a_region_that_dies_in_the_middle_of_an_answer_ends_it_with_a_typed_error(tmp_path):
    async def half(seen, channel):
        await channel.begin_stream()
        await channel.event(token_chunk("Hel"))
        await seen.closed.wait()

    async with world(tmp_path, {"eu": 0, "us": 1}) as made:
        only(made["us"]).behave = half
        async with connected_to(made["eu"].router.port) as (reader, writer):
            writer.write(http_post(chat(stream=True)))
            await made["eu"].until(lambda: made["us"].served() == 1)
            await asyncio.sleep(0.1)
            made.wires["eu", "us"].is_refusing = True
            made.wires["eu", "us"].cut()
            answer = await asyncio.wait_for(read_answer(reader), 10)
        assert not answer.is_whole
        assert b"Hel" in answer.body
        assert b"stream_broken" in answer.body
        assert b"[DONE]" not in answer.body


async def test_what_waits_at_home_goes_elsewhere_when_home_loses_its_workers(tmp_path):
    async with world(tmp_path, {"eu": 1, "us": 1}) as made:
        home = only(made["eu"])
        home.state["slots"], home.behave = 1, hang
        await made["eu"].until(lambda: [one.slots for _, one in made["eu"].router.catalog.workers()] == [1])
        made.wires["eu", "us"].there = False  # nobody there for a while: requests stay at home
        await made["eu"].until(lambda: made["eu"].peer("us").state == "down")
        asking = [asyncio.create_task(made["eu"].ask()) for _ in range(4)]
        await home.saw_request()
        made.wires["eu", "us"].there = True
        await made["eu"].hears(made["us"])
        made["eu"].engines.clear()
        made["eu"].write()
        home.stop_listening()
        await made["eu"].until(lambda: sum(one.done() for one in asking) == 3)
        answers = [one.result() for one in asking if one.done()]
        assert {(answer.status, answer.headers["x-tandem-region"]) for answer in answers} == {(200, "us")}
        for one in asking:  # the one that hangs on the lost worker
            one.cancel()


@pytest.mark.parametrize(
    "way", [pytest.param("there", marks=pytest.mark.long), pytest.param("back", marks=pytest.mark.long), "both"]
)
async def test_a_partition_is_noticed_and_each_side_serves_its_own(tmp_path, way):
    async with world(tmp_path, {"eu": 1, "us": 1}) as made:
        wires = [made.wires["eu", "us"], made.wires["us", "eu"]]
        began_s = time.monotonic()
        for wire, (there, back) in zip(wires, (("there", "back"), ("back", "there")), strict=True):
            for side in {"there": (there,), "back": (back,), "both": (there, back)}[way]:
                setattr(wire, side, False)
        for name, other in (("eu", "us"), ("us", "eu")):
            await made[name].until(lambda name=name, other=other: made[name].peer(other).state == "down")
        print(f"noticed {way} after {time.monotonic() - began_s:.2f} s")
        for name in ("eu", "us"):
            assert (await made[name].ask()).headers["x-tandem-region"] == name
        for wire in wires:
            wire.there = wire.back = True
        for name, other in (("eu", "us"), ("us", "eu")):
            await made[name].hears(made[other])
            share = made[name].peer(other).accepts(asyncio.get_running_loop().time())
            assert 0.0 < share < 1.0, "what comes back is given its share little by little"


async def test_a_drained_region_gives_away_and_is_given_nothing(tmp_path):
    async with world(tmp_path, {"eu": 1, "us": 1}) as made:
        made["eu"].write(drain=True)
        await made["us"].until(lambda: made["us"].peer("eu").state == "drained")
        assert (await made["eu"].ask()).headers["x-tandem-region"] == "us"
        order = {"origin": "us", "fleet": "default/demo", "deadlineMs": 2000}
        assert (await forward(made["eu"], order)).json["error"]["code"] == "region_drained"
        made["us"].engines.clear()
        made["us"].write()
        await made["eu"].until(lambda: not made["eu"].peer("us").load("default/demo", "m").can_serve)
        assert (await made["eu"].ask()).headers["x-tandem-region"] == "eu", "with nobody else it serves after all"


async def test_a_rollout_of_the_peers_routers_is_no_death(tmp_path):
    async with world(tmp_path, {"eu": 0, "us": 1}) as made:
        link, us = made["eu"].router.border.links["us"], made["us"].router.border.broadcaster
        for _ in range(3):
            with patch.object(health, "SILENCE_S", 30.0):  # what is tested is the end of streams, not a busy machine
                us.say_goaway()
                await made["us"].until(lambda: not us.listeners)
                await made["us"].until(lambda: us.listeners == 2)
            assert link.peer.accepts(asyncio.get_running_loop().time()) > 0.0
        assert made["eu"].router.border.tally.transitions["us", "down"] == 0


async def test_a_peer_at_the_wrong_place_is_named_and_not_used(tmp_path):
    async with world(tmp_path, {"eu": 1, "us": 1}) as made:
        eu = made["eu"]
        eu.peers[0]["url"] = f"http://127.0.0.1:{eu.router.internal_port}"
        (eu.folder / "peers" / "us" / "token").write_text(TOKEN)
        eu.write()
        await eu.until(lambda: "this very region" in eu.peer("us").fault)
        assert eu.peer("us").accepts(asyncio.get_running_loop().time()) == 0.0


@pytest.mark.long
async def test_a_far_region_is_known_and_its_way_is_measured_also_when_it_grows(tmp_path):
    async with world(tmp_path, {"eu": 0, "us": 1}) as made:
        wire, peer = made.wires["eu", "us"], made["eu"].peer("us")
        for delay_s in (0.05, 0.15):
            wire.delay_s = delay_s
            await made["eu"].until(lambda way_s=2 * delay_s: (peer.rtt_s or 0.0) >= way_s and peer.state == "up")
            assert (await made["eu"].ask()).headers["x-tandem-region"] == "us"


async def test_a_router_that_knows_no_region_serves_nobody_who_is_bound_to_one(tmp_path, caplog):
    async with world(tmp_path, {"eu": 1}, tenants=TENANTS, settings={"region": ""}) as made:
        assert "tenants that are bound to regions get 403" in caplog.text
        for tenant in ("bound", "lawful", "away"):
            answer = await made["eu"].ask(as_tenant(tenant))
            assert (answer.status, answer.json["error"]["code"]) == (403, "region_not_allowed")
            assert "region.name" in answer.json["error"]["message"]
        answer = await made["eu"].ask(as_tenant("free"))
        assert answer.status == 200
        assert "x-tandem-region" not in answer.headers


async def test_a_request_that_lost_its_only_region_is_met_there_when_it_is_back_in_a_moment(tmp_path):
    async with world(tmp_path, {"eu": 1, "us": 1}, tenants=TENANTS) as made:
        only(made["us"]).behave = hang
        asking = asyncio.create_task(made["eu"].ask(as_tenant("away")))
        await made["us"].until(lambda: made["us"].served() == 1)
        only(made["us"]).behave = type(only(made["us"]))("x", "mixed").behave
        made.wires["eu", "us"].cut()  # every connection is reset, and new ones are let through
        answer = await asking
        assert (answer.status, answer.headers["x-tandem-region"]) == (200, "us")
        assert made["eu"].served() == 0, "never where it may not"
