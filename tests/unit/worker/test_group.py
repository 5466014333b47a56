"""Workers that span nodes."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from unit.worker.conftest import MakeSettings
from unit.worker.parts import build_config

from tandem_api.conditions import Reason
from tandem_api.worker import EngineConfig, Role
from tandem_worker.engines.vllm import Build, build_arguments, build_environment
from tandem_worker.errors import WorkerError
from tandem_worker.group import Headless, Place, read_place
from tandem_worker.models import ModelFiles

GROUP = {"LWS_LEADER_ADDRESS": "set-0.set.team", "LWS_WORKER_INDEX": "1"}
MODEL = ModelFiles("org/model", is_local=False)


def test_a_pod_knows_its_place_from_the_controller() -> None:
    assert read_place(GROUP, 2) == Place(2, 1, "set-0.set.team")
    assert read_place(GROUP | {"LWS_WORKER_INDEX": "0"}, 2) == Place(2, 0, "set-0.set.team")
    assert read_place({}, 1) is None


@pytest.mark.parametrize(
    "environ", [{}, {"LWS_LEADER_ADDRESS": "x"}, GROUP | {"LWS_WORKER_INDEX": "2"}, GROUP | {"LWS_WORKER_INDEX": "x"}]
)
def test_several_nodes_without_a_controller_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(WorkerError, match="by a LeaderWorkerSet") as caught:
        read_place(environ, 2)
    assert caught.value.reason is Reason.CONFIG_INVALID


def test_the_first_pod_serves_and_the_others_hold_ranks(make_settings: MakeSettings) -> None:
    settings = make_settings(Role.MIXED, engine=EngineConfig(type="vllm", nodes=2, tensor_parallel=16))
    leader, follower = (replace(settings, place=Place(2, index, "leader")) for index in (0, 1))
    build = Build("0.32.0", is_cpu=False)
    common = "--nnodes 2 --node-rank {} --master-addr leader --master-port 29500"
    assert common.format(0) in " ".join(build_arguments(leader, MODEL, build, "i"))
    assert f"{common.format(1)} --headless" in " ".join(build_arguments(follower, MODEL, build, "i"))
    assert "--headless" not in build_arguments(leader, MODEL, build, "i")
    assert build_environment({}, follower, MODEL, build)["VLLM_HOST_IP"] == settings.pod_ip
    assert "VLLM_HOST_IP" not in build_environment({}, settings, MODEL, build)


async def test_a_follower_stays_until_the_leader_has_ended(session: aiohttp.ClientSession) -> None:
    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_get("/livez", livez)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    alive = True
    headless = Headless(session, f"http://127.0.0.1:{port}", lambda: alive)
    assert (await headless.is_healthy(), await headless.fetch_inflight()) == (True, 1)
    await runner.cleanup()
    alive = False
    assert (await headless.is_healthy(), await headless.fetch_inflight()) == (False, 0)


def test_the_configuration_of_one_node_needs_no_controller() -> None:
    assert build_config().engine.nodes == 1
