"""Three router processes beside one another: they share the slots of a worker; one is killed, and nothing is lost."""

import asyncio
import json
import os
import sys

import pytest
from unit.router.scripted import Engine, chat, connected_to, http_post, read_answer, token_chunk

from tandem_core.keys import derive_internal_token, encode_key

KEY = bytes(range(32))
SLOTS = 6
READY_S = 60.0


class Site:
    """Scripted engines in this process, and routers as processes of their own."""

    def __init__(self, folder):
        self.folder = folder
        self.engines = [Engine("p0", "prefill"), Engine("d0", "decode")]
        self.processes = []
        self.ports = []
        self.internal = []

    async def start(self, count):
        (self.folder / "router.key").write_text(encode_key(KEY))
        for engine in self.engines:
            engine.state["slots"] = SLOTS
            await engine.start()
        workers = [engine.entry() for engine in self.engines]
        fleet = {"name": "demo", "servedName": "m", "uid": "u-1", "workers": workers, "queueTimeoutSeconds": 60}
        (self.folder / "fleets.json").write_text(json.dumps({"fleets": [fleet]}))
        self.ports, self.internal = free_ports(count), free_ports(count)
        for number in range(count):
            await self.start_router(number)

    async def start_router(self, number):
        arguments = ["--host", "127.0.0.1", "--port", str(self.ports[number]), "--replica", f"r{number}"]
        arguments += ["--internal-port", str(self.internal[number]), "--static", str(self.folder / "fleets.json")]
        arguments += ["--keys-dir", str(self.folder), "--drain-timeout", "2", "--log-level", "warning"]
        for port in self.internal:
            arguments += ["--peer", f"127.0.0.1:{port}"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tandem_router", *arguments, env=os.environ
        )
        self.processes.append(process)

    async def stop(self):
        for process in self.processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        for engine in self.engines:
            await engine.stop()


def free_ports(count):
    import socket

    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


async def get(port, path):
    token = derive_internal_token(KEY)
    async with connected_to(port) as (reader, writer):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        return (await asyncio.wait_for(read_answer(reader), 10)).json


async def ask(port, **fields):
    async with connected_to(port) as (reader, writer):
        writer.write(http_post(chat(**fields)))
        return await asyncio.wait_for(read_answer(reader), 60)


async def until(check):
    async with asyncio.timeout(READY_S):
        while not await check():  # noqa: ASYNC110 - the condition is another process's state
            await asyncio.sleep(0.1)


async def peers_of(site, number):
    try:
        return await get(site.internal[number], "/internal/v1/peers")
    except OSError:
        return None


@pytest.fixture
async def site(tmp_path):
    made = Site(tmp_path)
    await made.start(3)
    try:
        yield made
    finally:
        await made.stop()


class Gate:
    """An engine's behaviour that holds every answer until it is opened, and counts how many it holds at once."""

    def __init__(self):
        self.opened = asyncio.Event()
        self.now = self.most = 0

    async def __call__(self, seen, channel):
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            ends = [asyncio.create_task(event.wait()) for event in (self.opened, seen.closed)]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
        finally:
            self.now -= 1
        await channel.json(200, {"choices": [token_chunk("x")], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})


async def test_three_replicas_share_a_worker_and_lose_nothing_when_one_is_killed(site):
    async def all_see_each_other():
        views = [await peers_of(site, number) for number in range(3)]
        return all(view and len(view["members"]) == 3 and len(view["heard"]) == 2 for view in views)

    await until(all_see_each_other)
    decode, gate = site.engines[1], Gate()
    decode.behave = gate

    # All load at one replica: it borrows what the others do not use, and never more than there is.
    asking = [asyncio.create_task(ask(site.ports[0], n=2)) for _ in range(SLOTS + 4)]

    async def is_full():
        return gate.now == SLOTS

    await until(is_full)
    await asyncio.sleep(1.0)
    assert gate.most == SLOTS

    # Its owner dies with requests in flight; the others take its share over once its port refuses.
    site.processes[0].kill()
    await site.processes[0].wait()
    broken = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(one, Exception) for one in broken)

    async def is_noticed():
        views = [await peers_of(site, number) for number in (1, 2)]
        return all(len(view["members"]) == 2 for view in views)

    await until(is_noticed)
    later = [asyncio.create_task(ask(site.ports[1 + number % 2], n=2)) for number in range(2 * SLOTS)]
    await until(is_full)
    gate.opened.set()
    answers = await asyncio.gather(*later)
    assert {answer.status for answer in answers} == {200}
    assert gate.most == SLOTS, "never more than the worker has"

    # The states of two workers were asked by one replica each, most of the time.
    before = decode.state_polls
    await asyncio.sleep(4.0)
    assert decode.state_polls - before <= 7, "two replicas that both ask each second would make eight"
