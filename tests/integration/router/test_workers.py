"""The router over real tandem-worker processes (engine sim): keys, state, leases and parameters agree across planes."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from integration.router.fleet_site import READY_S, UID, Workers
from unit.router.scripted import chat, http_post, read_answer, settings_for

from tandem_router.app import Router
from tandem_router.probes import edges
from tandem_router.probes.prober import describe


class Site(Workers):
    """Workers and a router over them in this process."""

    @asynccontextmanager
    async def router(self):
        router = Router(settings_for(self.write_fleet(), self.folder))
        await router.start()
        try:
            await until(lambda: len(usable(router)) == len(self.entries))
            yield router
        finally:
            await router.close()


@pytest.fixture
async def site(tmp_path):
    made = Site(tmp_path)
    made.start("p0", "prefill")
    made.start("d0", "decode")
    yield made
    made.stop()


def usable(router):
    now_s = asyncio.get_running_loop().time()
    return [worker for _, worker in router.catalog.workers() if worker.is_usable(now_s)]


async def until(check, timeout_s=READY_S):
    async with asyncio.timeout(timeout_s):
        while not check():  # noqa: ASYNC110 - the condition is another process's state
            await asyncio.sleep(0.05)


async def ask(router, **fields):
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    try:
        writer.write(http_post(chat(**fields)))
        return await asyncio.wait_for(read_answer(reader), 20)
    finally:
        writer.close()


def worker_state(router, name):
    return next(worker.state for _, worker in router.catalog.workers() if worker.name == name)


async def test_kv_moves_and_the_split_answer_equals_the_whole_one(site):
    async with site.router() as router:
        words = " ".join(f"word{n}" for n in range(60))
        question = [{"role": "user", "content": words}]
        split = await ask(router, messages=question, max_tokens=8, temperature=0)
        whole = await ask(router, messages=question, max_tokens=8, temperature=0, best_of=1, n=1, prompt_logprobs=None)
        assert (split.status, split.headers["x-served-by"]) == (200, "p0,d0")
        assert split.json["choices"][0]["message"] == whole.json["choices"][0]["message"]
        await until(lambda: worker_state(router, "d0").kv.bytes_received > 0)
        fleet = router.catalog.names["m"]
        await until(lambda: fleet.kv_totals().remote_tokens > 0)
        assert fleet.remote_prefills == 1


async def test_a_probe_proves_that_kv_moves_and_says_when_it_does_not(site, monkeypatch):
    monkeypatch.setattr(edges, "SETTLE_S", 0.0)
    async with site.router() as router:
        fleet, prober, clock = router.catalog.names["m"], router.prober, asyncio.get_running_loop().time
        prober.tick(clock())
        await until(lambda: prober.books[UID].counts() == (1, 0, 0))
        (found,) = prober.books[UID]._found.values()
        assert found.bytes_received > 0
        assert found.remote_tokens > 100
        assert (fleet.remote_prefills, router.metrics.of("m").inflight) == (0, 0), "probes are no traffic"
        site.kill("p0")
        prober.books.clear()
        prober.tick(clock())
        await until(lambda: prober.books[UID].counts() == (0, 1, 0))
        assert describe(prober.books[UID]).failure.startswith("p0 to d0")


async def test_real_traffic_proves_an_edge(site):
    async with site.router() as router:
        router.prober.tick(asyncio.get_running_loop().time())
        words = " ".join(f"word{n}" for n in range(60))
        assert (await ask(router, messages=[{"role": "user", "content": words}], max_tokens=4)).status == 200
        await until(lambda: router.prober.books[UID].counts() == (1, 0, 0))


async def test_clients_that_leave_at_any_moment_pin_no_kv(site):
    async with site.router() as router:
        for number in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            writer.write(http_post(chat(messages=[{"role": "user", "content": f"{number} " * 50}], stream=True)))
            await asyncio.sleep(number * 0.005)
            writer.transport.abort()
            del reader
        await until(lambda: router.metrics.of("m").inflight == 0, 5)
        await asyncio.sleep(1.2)
        await until(lambda: worker_state(router, "p0").leases == 0, 2)
        await until(lambda: worker_state(router, "d0").running == 0, 2)


async def test_killing_the_prefill_worker_leaves_every_request_answered(site):
    async with site.router() as router:
        asking = [asyncio.create_task(ask(router, max_tokens=20, seed=n)) for n in range(10)]
        site.processes["p0"].kill()
        answers = await asyncio.gather(*asking)
        assert {answer.status for answer in answers} == {200}
        after = await ask(router, max_tokens=4)
        assert (after.status, after.headers["x-served-by"]) == (200, "d0")
        assert router.metrics.of("m").inflight == 0
