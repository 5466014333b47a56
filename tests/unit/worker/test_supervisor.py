"""A whole worker with the sim engine: real sockets, real drain."""

import asyncio
import os

import aiohttp
import pytest
from unit.worker.conftest import MakeSettings, Run
from unit.worker.parts import RACE_WINDOW_S, running

from tandem_api.conditions import Reason
from tandem_api.worker import EngineConfig, Role, WorkerState
from tandem_worker.errors import WorkerError
from tandem_worker.supervisor import Supervisor

BODY = {"model": "tiny", "prompt": "The river does not hurry", "max_tokens": 5}
SLOW = EngineConfig(type="sim", max_num_seqs=8, extra_args=("--sim-speed=1", "--sim-decode-base-ms=30"))


async def test_a_worker_reports_itself_in_the_shape_of_the_contract(
    make_settings: MakeSettings, run_worker: Run, session: aiohttp.ClientSession
) -> None:
    worker = await run_worker(make_settings(Role.PREFILL))
    async with session.get(worker.admin + "/tandem/v1/state", headers={"authorization": ""}) as answer:
        state = WorkerState.model_validate_json(await answer.text())
    assert (state.fleet, state.role, state.kv_revision, state.ready) == ("default/chat", Role.PREFILL, "r1", True)
    assert state.slots == 8
    for path in ("/livez", "/readyz", "/metrics"):
        async with session.get(worker.admin + path, headers={"authorization": ""}) as answer:
            assert answer.status == 200
    async with session.get(worker.admin + "/metrics") as answer:
        text = await answer.text()
    assert "tandem_worker_kv_transfer_bytes_total" in text
    assert "vllm:num_requests_running" in text


async def test_a_drain_serves_what_raced_in_then_refuses_and_cuts_no_stream(
    make_settings: MakeSettings, run_worker: Run, session: aiohttp.ClientSession
) -> None:
    worker = await run_worker(make_settings(engine=SLOW))
    body = BODY | {"max_tokens": 40, "stream": True}
    async with session.post(worker.engine + "/v1/completions", json=body) as stream:
        await stream.content.readline()
        worker.supervisor.request_stop()
        async with session.get(worker.admin + "/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "draining\n")
        async with session.post(worker.engine + "/v1/completions", json=BODY) as raced:
            assert raced.status == 200
        await asyncio.sleep(RACE_WINDOW_S + 0.2)
        async with session.post(worker.engine + "/v1/completions", json=BODY) as late:
            assert late.status == 503
            assert late.headers["x-tandem-error"] == "draining"
            assert (await late.json())["error"]["type"] == "draining"
        rest = await stream.text()
    assert rest.count('"text"') == 39
    assert rest.endswith("data: [DONE]\n\n")
    await asyncio.wait_for(worker.task, 3)


async def test_a_drain_waits_for_leases_until_they_are_released(
    make_settings: MakeSettings, run_worker: Run, session: aiohttp.ClientSession
) -> None:
    worker = await run_worker(make_settings(Role.PREFILL))
    params = {"do_remote_decode": True, "do_remote_prefill": False}
    async with session.post(
        worker.engine + "/v1/completions", json=BODY | {"max_tokens": 1, "kv_transfer_params": params}
    ) as answer:
        ticket = (await answer.json())["kv_transfer_params"]
    worker.supervisor.request_stop()
    await asyncio.sleep(RACE_WINDOW_S + 0.5)
    assert not worker.task.done()
    async with session.post(worker.admin + "/tandem/v1/leases:release", json={"kv_transfer_params": ticket}) as answer:
        assert await answer.json() == {"released": 1}
    await asyncio.wait_for(worker.task, 2)


async def test_a_drain_ends_at_its_timeout(make_settings: MakeSettings, session: aiohttp.ClientSession) -> None:
    settings = make_settings(engine=SLOW, drain_timeout_s=0.6)
    async with running(settings) as worker:
        body = BODY | {"max_tokens": 400, "stream": True}
        async with session.post(worker.engine + "/v1/completions", json=body) as stream:
            await stream.content.readline()
            worker.supervisor.request_stop()
            await asyncio.wait_for(worker.task, 3)


async def test_a_second_signal_ends_a_drain_at_once(
    make_settings: MakeSettings, run_worker: Run, session: aiohttp.ClientSession
) -> None:
    worker = await run_worker(make_settings(engine=SLOW))
    async with session.post(
        worker.engine + "/v1/completions", json=BODY | {"max_tokens": 400, "stream": True}
    ) as stream:
        await stream.content.readline()
        worker.supervisor.request_stop()
        worker.supervisor.request_stop()
        await asyncio.wait_for(worker.task, 2)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"request_id": ""}', 400),
        (b'{"request_id": "short"}', 400),
        (b'{"request_id": "long-enough", "kv_transfer_params": {}}', 400),
        (b'{"kv_transfer_params": {}}', 503),
        (b'{"request_id": "of-nobody-at-all"}', 200),
    ],
)
async def test_a_release_is_checked(
    make_settings: MakeSettings, run_worker: Run, session: aiohttp.ClientSession, body: bytes, status: int
) -> None:
    worker = await run_worker(make_settings(Role.PREFILL))
    async with session.post(worker.admin + "/tandem/v1/leases:release", data=body) as answer:
        assert answer.status == status
        assert ("released" if status == 200 else "error") in await answer.json()


async def test_a_release_needs_the_fleets_key(make_settings: MakeSettings, run_worker: Run) -> None:
    worker = await run_worker(make_settings(Role.PREFILL))
    async with aiohttp.ClientSession() as stranger:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            async with stranger.post(
                worker.admin + "/tandem/v1/leases:release", json={"request_id": "12345678"}, headers=headers
            ) as answer:
                assert answer.status == 401


async def test_a_missing_key_is_said_before_anything_starts(make_settings: MakeSettings) -> None:
    settings = make_settings()
    os.unlink(settings.keys_dir / "engine.key")
    with pytest.raises(WorkerError, match="Secret") as caught:
        async with running(settings):
            pass
    assert caught.value.reason is Reason.SECRET_MISSING


async def test_a_taken_port_is_said_with_its_number(make_settings: MakeSettings, run_worker: Run) -> None:
    worker = await run_worker(make_settings())
    async with aiohttp.ClientSession() as client:
        with pytest.raises(WorkerError, match="8001"):
            await Supervisor(worker.settings, client).run()


async def test_a_drain_order_of_a_former_life_is_forgotten(
    make_settings: MakeSettings, run_worker: Run, session: aiohttp.ClientSession
) -> None:
    settings = make_settings()
    (settings.run_dir / "draining").touch()
    worker = await run_worker(settings)
    async with session.post(worker.engine + "/v1/completions", json=BODY) as answer:
        assert answer.status == 200
