"""Many requests at once: what our own lateness makes slow is never held against a worker."""

import asyncio
import errno
import socket
import time

from unit.router.scripted import Engine, ask, chat, connected, http_post, pair, read_answer, running


def stand_still(seconds: float, times: int) -> None:
    """Keep the loop from turning for so long, again and again, as thousands of requests at once do."""
    time.sleep(seconds)
    if times > 1:
        asyncio.get_running_loop().call_soon(stand_still, seconds, times - 1)


async def test_a_late_loop_is_not_taken_for_a_worker_that_cannot_be_reached(tmp_path):
    async with (
        running(tmp_path, [Engine("d0", "mixed")], connect_timeout_s=0.2, retries=0) as bench,
        connected(bench) as (reader, writer),
    ):
        writer.write(http_post(chat()))
        while not bench.router.metrics.of("m").inflight:  # noqa: ASYNC110 - the router's own counter
            await asyncio.sleep(0)
        stand_still(0.25, 3)
        assert (await read_answer(reader)).status == 200


async def test_a_late_loop_is_not_taken_for_a_worker_that_says_nothing(tmp_path):
    async with running(tmp_path, pair(), first_byte_timeout_s=0.2, prefill_timeout_s=0.2, retries=0) as bench:
        async with connected(bench) as (reader, writer):
            writer.write(http_post(chat()))
            await bench["d0"].saw_request()
            stand_still(0.25, 3)
            assert (await read_answer(reader)).status == 200
        assert bench.routes() == {"remote": 1}


async def test_an_address_that_nobody_answers_is_given_up_at_the_limit(tmp_path):
    """A backlog of one that is full: the kernel drops what comes."""
    engines = [Engine("d0", "mixed"), Engine("d1", "mixed")]
    async with running(tmp_path, engines, connect_timeout_s=0.3) as bench:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            with socket.create_connection(deaf.getsockname()):
                for _, worker in bench.router.catalog.workers():
                    if worker.name == "d0":
                        worker.endpoint = worker.endpoint._replace(port=deaf.getsockname()[1])
                answers = await asyncio.gather(*(ask(bench) for _ in range(8)))
        assert {(one.status, one.headers["x-served-by"]) for one in answers} == {(200, "d1")}


async def test_more_new_connections_than_may_be_made_at_once_are_made_in_turn(tmp_path):
    async with running(tmp_path, [Engine("d0", "mixed", state={"slots": 64})], connects_at_once=2) as bench:
        answers = await asyncio.gather(*(ask(bench) for _ in range(32)))
        assert {one.status for one in answers} == {200}
        assert bench["d0"].connections > 2


async def test_clients_over_the_limit_are_told_so(tmp_path):
    async with (
        running(tmp_path, [Engine("d0", "mixed")], max_connections=1) as bench,
        connected(bench) as (reader, writer),
    ):
        refused = await ask(bench)
        assert (refused.status, refused.json["error"]["code"]) == (429, "too_many_connections")
        assert refused.headers["retry-after"] == "1"
        writer.write(http_post(chat()))
        assert (await read_answer(reader)).status == 200


async def test_our_own_lack_of_files_speaks_against_no_worker(tmp_path, monkeypatch):
    async with running(tmp_path, pair()) as bench, connected(bench) as (reader, writer):

        async def no_file_left(*_: object, **__: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(asyncio.get_running_loop(), "create_connection", no_file_left)
            writer.write(http_post(chat()))
            refused = await read_answer(reader)
        assert (refused.status, refused.json["error"]["code"]) == (429, "router_full")
        assert not any(worker.is_avoided(0.0) for _, worker in bench.router.catalog.workers())
        assert (await ask(bench)).status == 200
        assert bench.router.metrics.of("m").retries == {}
