"""The client, the watch and the status writer against a small API server that misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from unit.process_node.pods import make_pod

from cluster.process_node import status_writer
from cluster.process_node.api import ApiClient, ApiError, ApiUnreachableError, parse_error
from cluster.process_node.kubeconfig import Credentials
from cluster.process_node.object_cache import ObjectCache
from cluster.process_node.objects import JsonObject
from cluster.process_node.status_writer import StatusWriter, build_patch
from cluster.process_node.tokens import TokenSource
from cluster.process_node.watching import watch_forever

Answer = tuple[int, Any]


def refusal(code: int, reason: str, message: str = "") -> Answer:
    return code, {"kind": "Status", "code": code, "reason": reason, "message": message}


class Server:
    """Answers each request with `answer`; keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.answer: Callable[[web.Request], Answer | web.StreamResponse] = lambda _: (200, {})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        self.asked.append((request.method, request.path_qs, body))
        answer = self.answer(request)
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.json_response(answer[1], status=answer[0])


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[ApiClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with ApiClient(Credentials(url, "", token="t")) as client:
            yield client
    finally:
        await runner.cleanup()


async def test_a_refusal_is_an_error_with_kubernetes_reason() -> None:
    server = Server()
    server.answer = lambda _: refusal(409, "AlreadyExists", "it exists")
    async with serving(server) as api:
        with pytest.raises(ApiError, match="409 AlreadyExists: it exists"):
            await api.create("/api/v1/nodes", {})


async def test_only_a_missing_object_is_none() -> None:
    server = Server()
    async with serving(server) as api:
        server.answer = lambda _: refusal(404, "NotFound")
        assert await api.find("/x") is None
        server.answer = lambda _: refusal(403, "Forbidden")
        with pytest.raises(ApiError):
            await api.find("/x")


async def test_the_node_authorizer_is_given_time_to_hear_of_a_pod() -> None:
    server = Server()
    server.answer = lambda _: (
        refusal(403, "Forbidden", "no relationship found between node and this object")
        if len(server.asked) < 3
        else (200, {"ok": True})
    )
    async with serving(server) as api:
        assert await api.get("/x") == {"ok": True}
    assert len(server.asked) == 3


async def test_a_server_that_is_gone_is_unreachable() -> None:
    async with ApiClient(Credentials("http://127.0.0.1:1", "")) as api:
        with pytest.raises(ApiUnreachableError, match="GET /x"):
            await api.get("/x")


@pytest.mark.parametrize("text", ["", "<html>", "[]", "null", '{"message": "m"}'])
def test_any_body_of_a_refusal_makes_an_error(text: str) -> None:
    assert parse_error(502, text).status == 502


class Recorder:
    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def replace_all(self, objects: list[JsonObject]) -> None:
        self.told.append(("all", [o["metadata"]["name"] for o in objects]))

    def changed(self, obj: JsonObject) -> None:
        self.told.append(("changed", obj["metadata"]["name"]))

    def gone(self, obj: JsonObject) -> None:
        self.told.append(("gone", obj["metadata"]["name"]))


def event(kind: str, name: str, version: str, padding: str = "") -> bytes:
    metadata = {"name": name, "resourceVersion": version, "padding": padding}
    return json.dumps({"type": kind, "object": {"metadata": metadata}}).encode() + b"\n"


EXPIRED = json.dumps({"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}).encode() + b"\n"


async def test_a_watch_tells_every_change_goes_on_from_its_version_and_lists_again_when_it_expired() -> None:
    streams = [
        event("ADDED", "a", "2", padding="x" * 300_000) + event("BOOKMARK", "", "5"),
        event("DELETED", "a", "6") + EXPIRED,
        event("MODIFIED", "b", "8"),
    ]
    server, recorder, done = Server(), Recorder(), asyncio.Event()

    def answer(request: web.Request) -> Answer | web.StreamResponse:
        if request.query.get("watch") != "true":
            return 200, {"metadata": {"resourceVersion": "1"}, "items": [{"metadata": {"name": "z"}}]}
        if streams:
            return web.Response(body=streams.pop(0))
        done.set()
        return refusal(500, "InternalError")

    server.answer = answer
    async with serving(server) as api:
        watching = asyncio.create_task(watch_forever(api, "/pods", {"fieldSelector": "x"}, recorder, retry_s=60))
        await asyncio.wait_for(done.wait(), 5)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert recorder.told == [
        ("all", ["z"]),
        ("changed", "a"),
        ("gone", "a"),
        ("all", ["z"]),
        ("changed", "b"),
    ]
    versions = [path.split("resourceVersion=")[1].split("&")[0] for _, path, _ in server.asked if "watch" in path]
    assert versions == ["1", "5", "1", "8"]


def make_writer(api: ApiClient, phases: list[str]) -> StatusWriter:
    return StatusWriter(api, make_pod(), lambda: {"phase": phases[-1], "conditions": []})


async def test_an_unchanged_status_is_not_written_again() -> None:
    server, phases = Server(), ["Pending"]
    async with serving(server) as api:
        writer = make_writer(api, phases)
        await writer.flush()
        await writer.flush()
        phases.append("Running")
        await writer.flush()
        writer.observe({"phase": "Failed"})
        await writer.flush()
    assert [body["status"]["phase"] for _, _, body in server.asked] == ["Pending", "Running", "Running"]
    assert server.asked[0][:2] == ("PATCH", "/api/v1/namespaces/ns/pods/p/status")


async def test_a_status_is_written_until_the_server_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_writer, "RETRY_S", 0.01)
    server = Server()
    server.answer = lambda _: refusal(500, "InternalError") if len(server.asked) < 3 else (200, {})
    async with serving(server) as api:
        await make_writer(api, ["Running"]).flush()
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("answer", "writes"),
    [
        (refusal(404, "NotFound"), 1),
        (refusal(409, "Conflict", "the UID in the precondition does not match"), 1),
        (refusal(422, "Invalid", "metadata.uid: field is immutable"), 1),
        (refusal(422, "Invalid", "status.podIPs: Invalid value"), 2),
    ],
)
async def test_a_pod_that_is_gone_is_left_alone_and_a_refused_status_holds_nobody_up(
    answer: Answer, writes: int
) -> None:
    server, phases = Server(), ["Running"]
    server.answer = lambda _: answer
    async with serving(server) as api:
        writer = make_writer(api, phases)
        await asyncio.wait_for(writer.flush(), 1)
        phases.append("Failed")
        await asyncio.wait_for(writer.flush(), 1)
    assert len(server.asked) == writes


async def test_a_pod_is_deleted_with_its_uid_as_precondition() -> None:
    server = Server()
    async with serving(server) as api:
        await make_writer(api, ["Failed"]).delete_pod()
    ((method, path, body),) = server.asked
    assert (method, path) == ("DELETE", "/api/v1/namespaces/ns/pods/p")
    assert body == {"gracePeriodSeconds": 0, "preconditions": {"uid": "0123-uid"}}


def test_a_patch_replaces_addresses_and_merges_conditions() -> None:
    patch = build_patch("u", {"podIPs": [{"ip": "127.9.0.1"}], "conditions": [{"type": "Ready"}]})
    assert patch["metadata"] == {"uid": "u"}
    assert patch["status"]["podIPs"] == [{"$patch": "replace"}, {"ip": "127.9.0.1"}]
    assert patch["status"]["conditions"] == [{"type": "Ready"}]


async def test_the_cache_asks_once_for_all_within_an_age_and_forgets() -> None:
    server, clock = Server(), [0.0]
    server.answer = lambda _: (200, {"data": {"a": "1"}})
    async with serving(server) as api:
        cache = ObjectCache(api, lambda: clock[0])
        for _ in range(3):
            assert await cache.fetch("ConfigMap", "ns", "c", max_age_s=9) == {"data": {"a": "1"}, "kind": "ConfigMap"}
        assert len(server.asked) == 1
        clock[0] = 10
        await cache.fetch("ConfigMap", "ns", "c", max_age_s=9)
        cache.forget_older_than(0)
        await cache.fetch("ConfigMap", "ns", "c", max_age_s=9)
        clock[0] = 11
        cache.forget_older_than(0.5)
        await cache.fetch("ConfigMap", "ns", "c", max_age_s=9)
    assert len(server.asked) == 3


async def test_a_token_is_kept_for_80_percent_of_its_life_and_bound_to_its_pod() -> None:
    server, now = Server(), [0.0]
    answers = iter([("one", "1970-01-01T00:10:00Z"), ("two", "1970-01-01T00:20:00Z")])

    def issue(_: web.Request) -> Answer:
        token, expiry = next(answers)
        return 201, {"status": {"token": token, "expirationTimestamp": expiry}}

    server.answer = issue
    source = {"path": "t", "audience": "tandem", "expirationSeconds": 600}
    async with serving(server) as api:
        tokens, seen = TokenSource(api, lambda: now[0]), []
        for moment in (0.0, 479.0, 481.0):
            now[0] = moment
            seen.append(await tokens.fetch(make_pod(), source))
    assert seen == ["one", "one", "two"]
    _, path, body = server.asked[0]
    assert path == "/api/v1/namespaces/ns/serviceaccounts/bot/token"
    assert body["spec"]["audiences"] == ["tandem"]
    assert body["spec"]["boundObjectRef"]["uid"] == "0123-uid"
