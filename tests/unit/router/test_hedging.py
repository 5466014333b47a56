"""A prefill that is late is begun on a second worker too: the first to end is taken, the other cancelled."""

import asyncio

from unit.router.scripted import Bench, Channel, Engine, Seen, answer, ask, hang, running

KNOWN = 100  # legs after which the tail is known


def make_known(bench: Bench) -> None:
    """What a fleet knows after some traffic: prefill takes 10 ms, and hardly ever twice that."""
    fleet = bench.router.catalog.names["m"]
    for worker in fleet.workers.values():
        worker.fits.prefill.terms = (0.01, 0.0, 0.0)
    for _ in range(KNOWN):
        fleet.hedging.observe(0.01, 0.02)


def hedges(bench: Bench) -> dict[str, int]:
    return dict(bench.router.metrics.of("m").hedges)


def three() -> list[Engine]:
    return [Engine("p0", "prefill"), Engine("p1", "prefill"), Engine("d0", "decode")]


async def test_a_prefill_that_hangs_is_overtaken_and_its_lease_released(tmp_path):
    engines = three()
    begun: list[str] = []

    def first_hangs(name: str):
        async def behave(seen: Seen, channel: Channel) -> None:
            begun.append(name)
            await (hang if len(begun) == 1 else answer)(seen, channel)

        return behave

    for engine in engines[:2]:
        engine.behave = first_hangs(engine.name)
    async with running(tmp_path, engines) as bench:
        make_known(bench)
        got = await ask(bench)
        late, other = begun
        assert (got.status, got.headers["x-served-by"]) == (200, f"{other},d0")
        assert hedges(bench) == {"begun": 1, "won": 1}
        await asyncio.wait_for(bench[late].seen[0].closed.wait(), 5)
        await asyncio.sleep(0.05)
        assert bench[late].released == [bench[late].seen[0].headers["x-request-id"]]
        assert bench[other].released == []
        assert bench.router.metrics.of("m").retries == {}  # it was late, and nobody's fault
        await bench.idle()


async def test_a_second_prefill_that_loses_is_cancelled_and_its_lease_released(tmp_path):
    engines = three()
    begun: list[str] = []

    def second_hangs(name: str):
        async def behave(seen: Seen, channel: Channel) -> None:
            begun.append(name)
            if len(begun) == 1:
                while len(begun) == 1:  # noqa: ASYNC110 - another connection's data
                    await asyncio.sleep(0.001)
                await answer(seen, channel)
            else:
                await hang(seen, channel)

        return behave

    for engine in engines[:2]:
        engine.behave = second_hangs(engine.name)
    async with running(tmp_path, engines) as bench:
        make_known(bench)
        got = await ask(bench)
        first, second = begun
        assert (got.status, got.headers["x-served-by"]) == (200, f"{first},d0")
        assert hedges(bench) == {"begun": 1, "lost": 1}
        await asyncio.wait_for(bench[second].seen[0].closed.wait(), 5)
        await asyncio.sleep(0.05)
        assert bench[second].released == [bench[second].seen[0].headers["x-request-id"]]
        assert bench[first].released == []
        await bench.idle()


async def test_when_the_late_one_fails_the_second_is_waited_for(tmp_path):
    engines = three()
    begun: list[str] = []

    def first_dies_late(name: str):
        async def behave(seen: Seen, channel: Channel) -> None:
            begun.append(name)
            if len(begun) == 1:
                while len(begun) == 1:  # noqa: ASYNC110 - another connection's data
                    await asyncio.sleep(0.001)
                channel.reset()
            else:
                await asyncio.sleep(0.05)
                await answer(seen, channel)

        return behave

    for engine in engines[:2]:
        engine.behave = first_dies_late(engine.name)
    async with running(tmp_path, engines) as bench:
        make_known(bench)
        got = await ask(bench)
        assert (got.status, got.headers["x-served-by"]) == (200, f"{begun[1]},d0")
        assert (len(begun), hedges(bench)) == (2, {"begun": 1, "won": 1})
        assert bench.router.metrics.of("m").retries == {"prefill": 1}
        await bench.idle()


async def test_hedging_can_be_turned_off_and_needs_an_idle_worker(tmp_path):
    engines = [Engine("p0", "prefill", hang), Engine("d0", "decode")]
    async with running(tmp_path, engines, prefill_timeout_s=0.2) as bench:
        make_known(bench)
        assert (await ask(bench)).headers["x-served-by"] == "d0"
        assert hedges(bench) == {}
    engines = [Engine("p0", "prefill", hang), Engine("p1", "prefill", hang), Engine("d0", "decode")]
    async with running(tmp_path, engines, prefill_timeout_s=0.2, hedge_share=0.0) as bench:
        make_known(bench)
        assert (await ask(bench)).status == 200
        assert hedges(bench) == {}


async def test_a_client_that_leaves_during_a_race_closes_both(tmp_path):
    engines = [Engine("p0", "prefill", hang), Engine("p1", "prefill", hang), Engine("d0", "decode")]
    async with running(tmp_path, engines) as bench:
        make_known(bench)
        asking = asyncio.create_task(ask(bench))
        for name in ("p0", "p1"):
            await asyncio.wait_for(bench[name].saw_request(), 5)
        asking.cancel()
        for name in ("p0", "p1"):
            await asyncio.wait_for(bench[name].seen[0].closed.wait(), 5)
        await asyncio.sleep(0.05)
        assert [len(bench[name].released) for name in ("p0", "p1")] == [1, 1]
        await bench.idle()
        assert bench.outcomes() == {"client_gone": 1}
