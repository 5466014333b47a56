"""Regions as router processes: one is killed, one of two routers of another is stopped, and every request ends once."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field

import pytest
from unit.router.regions.two_regions import TOKEN, Wire, free_ports
from unit.router.scripted import Engine, chat, connected_to, http_post, read_answer, token_chunk, usage_of

from tandem_core.keys import ROUTER_KEY_FILE, derive_internal_token, encode_key

KEY = bytes(range(32))
READY_S = 150.0  # processes start slowly beside others


async def stream_slowly(seen, channel):
    """Ten tokens in half a second."""
    await asyncio.sleep(0.1)
    await channel.begin_stream()
    for _ in range(10):
        await asyncio.sleep(0.04)
        await channel.event(token_chunk("x"))
    await channel.event({"choices": [], "usage": usage_of(10)})
    await channel.event("[DONE]")
    await channel.end_stream()


@dataclass
class Place:
    """One region: its engines, and the ports of its routers."""

    name: str
    engines: list[Engine]
    ports: list[int]
    internal: list[int]
    processes: list = field(default_factory=list)


class Site:
    """Regions of router processes, each over scripted engines of this process, and the lines between them."""

    def __init__(self, folder, **routers):
        self.folder = folder
        self.places = {}
        for name, (engines, count) in routers.items():
            made = [Engine(f"{name}-{i}", "mixed", behave=stream_slowly) for i in range(engines)]
            self.places[name] = Place(name, made, free_ports(count), free_ports(count))
        self.wires = {name: Wire(list(place.internal)) for name, place in self.places.items()}

    async def start(self):
        (self.folder / ROUTER_KEY_FILE).write_text(encode_key(KEY))
        (self.folder / "accepted").write_text(TOKEN)
        for name, wire in self.wires.items():
            await wire.start()
            (self.folder / "peers" / name).mkdir(parents=True)
            (self.folder / "peers" / name / "token").write_text(TOKEN)
        regions = [{"name": name, "url": f"http://127.0.0.1:{wire.port}"} for name, wire in self.wires.items()]
        for place in self.places.values():
            for engine in place.engines:
                engine.state["slots"] = 64
                await engine.start()
            workers = [engine.entry() for engine in place.engines]
            fleet = {"name": "demo", "servedName": "m", "uid": f"u-{place.name}", "workers": workers}
            file = self.folder / f"{place.name}.json"
            file.write_text(json.dumps({"fleets": [fleet], "regions": regions}))
            for number in range(len(place.ports)):
                place.processes.append(await self._run(place, number, file))

    async def _run(self, place, number, file):
        arguments = ["--host", "127.0.0.1", "--port", str(place.ports[number]), "--replica", f"{place.name}{number}"]
        arguments += ["--internal-port", str(place.internal[number]), "--static", str(file), "--log-level", "warning"]
        arguments += ["--keys-dir", str(self.folder), "--drain-timeout", "20", "--region", place.name]
        arguments += ["--regions-dir", str(self.folder / "peers"), "--region-token-file", str(self.folder / "accepted")]
        for port in place.internal:
            arguments += ["--peer", f"127.0.0.1:{port}"]
        return await asyncio.create_subprocess_exec(sys.executable, "-m", "tandem_router", *arguments, env=os.environ)

    async def stop(self):
        for place in self.places.values():
            for process in place.processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()
            for engine in place.engines:
                await engine.stop()
        for wire in self.wires.values():
            await wire.stop()

    async def matrix(self, name, number=0):
        token = derive_internal_token(KEY)
        try:
            async with connected_to(self.places[name].internal[number]) as (reader, writer):
                writer.write(
                    f"GET /internal/v1/regions HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
                )
                return (await asyncio.wait_for(read_answer(reader), 10)).json
        except OSError:
            return None

    async def until_joined(self):
        async with asyncio.timeout(READY_S):
            while not all([await self._is_joined(one) for one in self.places.values()]):  # noqa: ASYNC110 - processes
                await asyncio.sleep(0.05)

    async def _is_joined(self, place):
        for number in range(len(place.internal)):
            matrix = await self.matrix(place.name, number)
            if matrix is None or len(matrix["peers"]) != len(self.places) - 1:
                return False
            for name, peer in matrix["peers"].items():
                if peer["state"] != "up" or peer["headroom_slots"] < 64 * len(self.places[name].engines):
                    return False
        return True

    async def ask(self, name):
        async with connected_to(self.places[name].ports[0]) as (reader, writer):
            writer.write(http_post(chat(stream=True)))
            return await asyncio.wait_for(read_answer(reader), 30)


@pytest.fixture
async def site(tmp_path):
    made = Site(tmp_path, eu=(0, 1), us=(1, 1), ap=(1, 2))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def end_of(answer):
    """How a client would count it."""
    if answer.status == 200 and answer.is_whole and b"[DONE]" in answer.body:
        return "whole"
    if answer.status == 200 and not answer.is_whole and b"stream_broken" in answer.body:
        return "typed break"
    return f"{answer.status} {answer.body[-200:]!r}"


async def test_a_killed_region_and_a_stopped_router_of_another_lose_no_request(site):
    await site.until_joined()
    asking = []
    for number in range(120):
        asking.append(asyncio.create_task(site.ask("eu")))
        if number == 40:
            site.places["ap"].processes[0].send_signal(signal.SIGTERM)
        if number == 80:
            site.places["us"].processes[0].kill()
        await asyncio.sleep(0.02)
    answers = await asyncio.gather(*asking)
    ends = Counter(end_of(answer) for answer in answers)
    assert set(ends) <= {"whole", "typed break"}, ends
    assert ends["typed break"] <= 40, "only answers that had begun in the killed region"
    broken = [one for one in answers if end_of(one) == "typed break"]
    assert {one.headers["x-tandem-region"] for one in broken} <= {"us"}
    served = Counter(one.headers["x-tandem-region"] for one in answers)
    assert set(served) == {"us", "ap"}
    matrix = await site.matrix("eu")
    assert matrix["peers"]["us"]["state"] == "down"
    assert matrix["peers"]["ap"]["state"] == "up", "its other router speaks for it"
    assert await site.places["ap"].processes[0].wait() == 0
