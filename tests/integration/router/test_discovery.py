"""The router finds fleets and workers on a real API server, and outlives it."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from unit.router.scripted import Engine, RawAnswer, chat, http_post, read_answer

from tandem_core.keys import ROUTER_KEY_FILE, derive_engine_token, derive_internal_token, encode_key
from tandem_router.app import Router
from tandem_router.settings import parse_settings

pytestmark = pytest.mark.integration

ROUTER_KEY = bytes(range(32))
CRDS = Path(__file__).parents[3] / "crds"
RULES = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: tandem-router}
rules:
- {apiGroups: [tandem.dev], resources: [inferencedeployments], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: tandem-router}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tandem-router}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tandem-router}
subjects: [{kind: ServiceAccount, name: tandem-router}]
"""


@dataclass
class Site:
    """A namespace of a real cluster, and the files that a router's pod would have."""

    cluster: object
    namespace: str
    directory: Path
    api_port: int

    async def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return await asyncio.to_thread(self.cluster.kubectl, "-n", self.namespace, *arguments, stdin=stdin)

    async def apply(self, *objects: dict) -> None:
        await self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    async def create_fleet(self, name: str, served_name: str) -> str:
        spec = {
            "model": {"name": served_name, "servedName": served_name, "source": "synthetic://tiny-llama"},
            "prefill": {},
            "decode": {},
        }
        meta = {"name": name}
        await self.apply(
            {"apiVersion": "tandem.dev/v1alpha1", "kind": "InferenceDeployment", "metadata": meta, "spec": spec}
        )
        return await self.kubectl("get", "infd", name, "-o", "jsonpath={.metadata.uid}")

    async def create_worker(self, fleet: str, engine: Engine) -> None:
        await engine.start()
        meta = {
            "name": engine.name,
            "labels": {
                "tandem.dev/fleet": fleet,
                "tandem.dev/role": engine.role,
                "tandem.dev/kv-revision": engine.kv_revision,
            },
            "annotations": {
                "tandem.dev/http-port": str(engine.http_port),
                "tandem.dev/admin-port": str(engine.admin_port),
            },
        }
        spec = {"schedulerName": "nobody", "containers": [{"name": "engine", "image": "scripted"}]}
        await self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        await self.set_ready(engine, True)

    async def set_ready(self, engine: Engine, is_ready: bool) -> None:
        condition = {"type": "Ready", "status": "True" if is_ready else "False"}
        status = {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}], "phase": "Running", "conditions": [condition]}
        patch = json.dumps({"status": status})
        await self.kubectl("patch", "pod", engine.name, "--subresource=status", "--type=merge", "-p", patch)

    @asynccontextmanager
    async def router(self, api_port: int | None = None) -> AsyncIterator[Router]:
        arguments = ["--host", "127.0.0.1", "--port", "0", "--internal-port", "0", "--namespaces", self.namespace]
        arguments += ["--keys-dir", str(self.directory), "--service-account-dir", str(self.directory)]
        arguments += ["--state-dir", str(self.directory / "state")]
        environment = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(api_port or self.api_port),
        }
        router = Router(parse_settings(arguments, environment))
        await router.start()
        try:
            yield router
        finally:
            await router.close()


@pytest.fixture
async def site(light_cluster, light_namespace, tmp_path):
    await asyncio.to_thread(light_cluster.kubectl, "apply", "-f", str(CRDS))
    crd = "crd/inferencedeployments.tandem.dev"
    await asyncio.to_thread(light_cluster.kubectl, "wait", "--for=condition=Established", crd)
    config = yaml.safe_load(light_cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
    made = Site(light_cluster, light_namespace, tmp_path, int(config["server"].rsplit(":", 1)[1].strip("/")))
    await made.kubectl("apply", "-f", "-", stdin=RULES)
    if "certificate-authority-data" in config:
        ca = base64.b64decode(config["certificate-authority-data"])
    else:
        ca = await asyncio.to_thread(Path(config["certificate-authority"]).read_bytes)
    (tmp_path / "ca.crt").write_bytes(ca)
    (tmp_path / "token").write_text((await made.kubectl("create", "token", "tandem-router")).strip())
    (tmp_path / ROUTER_KEY_FILE).write_text(encode_key(ROUTER_KEY))
    yield made
    await made.kubectl("delete", "infd,pod", "--all", "--wait=false", "--grace-period=0", "--force")


async def send(port: int, request: bytes) -> RawAnswer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await asyncio.wait_for(read_answer(reader), 10)
    finally:
        writer.close()


async def ask(router: Router, model: str = "m") -> RawAnswer:
    return await send(router.port, http_post(chat(model=model)))


async def until(check, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not check():  # noqa: ASYNC110 - the condition is another process's state
            await asyncio.sleep(0.02)


def usable(router: Router) -> set[str]:
    now_s = asyncio.get_running_loop().time()
    return {worker.name for _, worker in router.catalog.workers() if worker.is_usable(now_s)}


async def test_a_fleet_is_found_served_and_reported(site):
    engines = [Engine("p0", "prefill"), Engine("d0", "decode")]
    async with site.router() as router:
        uid = await site.create_fleet("demo", "m")
        for engine in engines:
            await site.create_worker("demo", engine)
        await until(lambda: usable(router) == {"p0", "d0"})
        answer = await ask(router)
        assert (answer.status, answer.headers["x-served-by"]) == (200, "p0,d0")
        assert engines[0].seen[0].headers["authorization"] == "Bearer " + derive_engine_token(ROUTER_KEY, uid)

        token = derive_internal_token(ROUTER_KEY)
        path = "GET /internal/v1/fleets HTTP/1.1\r\nHost: r\r\n"
        report = (await send(router.internal_port, f"{path}Authorization: Bearer {token}\r\n\r\n".encode())).json
        assert report["synced"] is True
        said = {"kv": 0, "kv_edges": None, "kv_fallbacks": [], "loads": [["p0", 0, 3.0]], "trials": []}
        assert report["fleets"][0] | {"kv": 0, "kv_edges": None} == said | {
            "namespace": site.namespace,
            "name": "demo",
            "uid": uid,
            "generation": 1,
            "served_name": "m",
            "serving": True,
            "name_conflict": False,
            "workers": {"decode": 1, "prefill": 1},
            "kv": 0,
            "recent": {
                "window_s": 300.0,
                "remote_prefills": 1,
                "local_prefills": 0,
                "kv_bytes": 0,
                "kv_failures": 0,
            },
        }
        assert (await send(router.internal_port, f"{path}\r\n".encode())).status == 401
    for engine in engines:
        await engine.stop()


async def test_deleted_and_unready_pods_are_not_used(site):
    engines = [Engine("w-gone", "decode"), Engine("w-unready", "decode"), Engine("w-good", "decode")]
    async with site.router() as router:
        await site.create_fleet("demo", "m")
        for engine in engines:
            await site.create_worker("demo", engine)
        await until(lambda: len(usable(router)) == 3)
        await site.kubectl("delete", "pod", "w-gone", "--wait=false")
        await site.set_ready(engines[1], False)
        await until(lambda: usable(router) == {"w-good"})
        for _ in range(5):
            assert (await ask(router)).headers["x-served-by"] == "w-good"
    for engine in engines:
        await engine.stop()


async def test_the_oldest_fleet_holds_its_name_and_the_other_says_so(site):
    first, second = Engine("d-first", "decode"), Engine("d-second", "decode")
    async with site.router() as router:
        await site.create_fleet("first", "m")
        await asyncio.sleep(1.1)  # creation times are whole seconds
        await site.create_fleet("second", "m")
        await site.create_worker("first", first)
        await site.create_worker("second", second)
        await until(lambda: len(usable(router)) == 2)
        assert (await ask(router)).headers["x-served-by"] == "d-first"
        conflicts = {fleet.spec.name: not router.catalog.holds_name(fleet) for fleet in router.catalog.fleets.values()}
        assert conflicts == {"first": False, "second": True}
        assert (await ask(router, f"{site.namespace}/m")).headers["x-served-by"] == "d-first"
        await site.kubectl("delete", "infd", "first")
        await until(lambda: len(router.catalog.fleets) == 1)
        assert (await ask(router)).headers["x-served-by"] == "d-second"
    for engine in (first, second):
        await engine.stop()


async def test_a_router_that_starts_without_the_api_serves_from_its_last_good_state(site):
    engine = Engine("d0", "decode")
    async with site.router() as router:
        await site.create_fleet("demo", "m")
        await site.create_worker("demo", engine)
        await until(lambda: usable(router) == {"d0"})
        await until((site.directory / "state" / "last-good.json").exists)
        await asyncio.sleep(1.2)
    async with site.router(api_port=1) as router:
        await until(lambda: usable(router) == {"d0"})
        assert (await ask(router)).status == 200
        assert (await send(router.port, b"GET /readyz HTTP/1.1\r\nHost: r\r\n\r\n")).status == 200
    await engine.stop()


async def test_a_broken_watch_is_resumed_and_what_was_missed_is_caught_up(site):
    engines = [Engine("d0", "decode"), Engine("d1", "decode")]
    links: list[asyncio.StreamWriter] = []
    is_open = True

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def link(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not is_open:
            writer.transport.abort()
            return
        api_reader, api_writer = await asyncio.open_connection("127.0.0.1", site.api_port)
        links.extend((writer, api_writer))
        await asyncio.gather(pump(reader, api_writer), pump(api_reader, writer))

    proxy = await asyncio.start_server(link, "127.0.0.1", 0)
    async with site.router(api_port=proxy.sockets[0].getsockname()[1]) as router:
        await site.create_fleet("demo", "m")
        await site.create_worker("demo", engines[0])
        await until(lambda: usable(router) == {"d0"})
        is_open = False
        for writer in links:
            writer.transport.abort()
        await site.create_worker("demo", engines[1])
        await site.kubectl("delete", "pod", "d0", "--wait=false")
        assert (await ask(router)).status == 200
        assert usable(router) == {"d0"}
        is_open = True
        await until(lambda: usable(router) == {"d1"}, 8)
    proxy.close()
    for engine in engines:
        await engine.stop()
