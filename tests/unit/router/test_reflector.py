"""The copy of a kind of object, over an API server that pages, ends, breaks and forgets."""

import asyncio
import json
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import pytest
from unit.router.scripted import Channel, read_request

from tandem_router.discovery.api_client import ApiClient, ApiMisconfiguredError, Credentials
from tandem_router.discovery.reflector import Reflector


def item(name, version=1):
    return {"metadata": {"uid": name, "name": name, "resourceVersion": str(version)}}


def event(kind, value):
    return json.dumps({"type": kind, "object": value}).encode() + b"\n"


class ScriptedApi:
    """Lists `pages`, then plays one script per watch."""

    def __init__(self, pages, watches):
        self.pages = pages
        self.watches = watches
        self.requests = []
        self.tokens = []
        self.failures = []

    async def serve(self, reader, writer):
        channel = Channel(writer)
        try:
            while True:
                seen = await read_request(reader)
                query = {key: value[0] for key, value in parse_qs(urlsplit(seen.path).query).items()}
                self.requests.append(query)
                self.tokens.append(seen.headers.get("authorization"))
                if self.failures:
                    await channel.json(*self.failures.pop(0))
                elif "watch" in query:
                    await self.watch(channel)
                else:
                    await channel.json(200, self.page(query))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def page(self, query):
        number = int(query.get("continue", "0"))
        metadata = {"resourceVersion": "10"}
        if number + 1 < len(self.pages):
            metadata["continue"] = str(number + 1)
        return {"metadata": metadata, "items": [item(name) for name in self.pages[number]]}

    async def watch(self, channel):
        await channel.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for step in self.watches.pop(0) if self.watches else ["hang"]:
            if step == "hang":
                await asyncio.sleep(3600)
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif step == "break":
                channel.reset()
                raise ConnectionError
            elif step == "end":
                await channel.end_stream()
            else:
                await channel.chunk(step)


@asynccontextmanager
async def reflecting(tmp_path, api):
    (tmp_path / "token").write_text("secret-1")
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = ApiClient(url, Credentials(tmp_path), asyncio.get_running_loop())
    made = Reflector(
        client, "/api/v1/pods", "tandem.dev/fleet", lambda one: one["metadata"]["resourceVersion"], lambda: None
    )
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        client.close()
        server.close()


async def until(check):
    async with asyncio.timeout(5):
        while not check():  # noqa: ASYNC110 - the condition is another task's state
            await asyncio.sleep(0.005)


async def test_all_pages_are_listed_and_the_watch_starts_where_the_list_ended(tmp_path):
    api = ScriptedApi([["a", "b"], ["c"]], [])
    async with reflecting(tmp_path, api) as made:
        await until(lambda: len(api.requests) == 3)
        assert made.is_synced
        assert set(made.objects) == {"a", "b", "c"}
        assert api.requests[2]["resourceVersion"] == "10"
        assert all(query["labelSelector"] == "tandem.dev/fleet" for query in api.requests)
        assert set(api.tokens) == {"Bearer secret-1"}


async def test_events_change_the_copy_and_a_split_line_is_one_event(tmp_path):
    added = event("ADDED", item("b", 11))
    script = [added[:7], added[7:] + event("MODIFIED", item("a", 12)) + event("DELETED", item("b", 13)), "hang"]
    async with reflecting(tmp_path, ScriptedApi([["a"]], [script])) as made:
        await until(lambda: made.objects == {"a": "12"})


async def test_after_the_end_of_a_watch_it_goes_on_from_the_last_bookmark(tmp_path):
    api = ScriptedApi([["a"]], [[event("BOOKMARK", item("", 42)), "end"]])
    async with reflecting(tmp_path, api):
        await until(lambda: len(api.requests) == 3)
        assert api.requests[2]["resourceVersion"] == "42"


async def test_a_broken_connection_goes_on_from_the_last_event(tmp_path):
    api = ScriptedApi([["a"]], [[event("ADDED", item("b", 11)), "break"], [event("ADDED", item("c", 12)), "hang"]])
    async with reflecting(tmp_path, api) as made:
        await until(lambda: set(made.objects) == {"a", "b", "c"})
        assert api.requests[2]["resourceVersion"] == "11"


@pytest.mark.parametrize("how", ["event", "status"])
async def test_an_expired_version_lists_again_and_forgets_what_is_gone(tmp_path, how):
    gate = asyncio.Event()
    expired = event("ERROR", {"kind": "Status", "code": 410, "message": "too old"})
    api = ScriptedApi([["a", "b"]], [[gate, expired, "end"] if how == "event" else [gate, "break"]])
    async with reflecting(tmp_path, api) as made:
        await until(lambda: made.is_synced)
        api.pages = [["b"]]
        if how == "status":
            api.failures = [(410, {"message": "too old"})]
        gate.set()
        await until(lambda: set(made.objects) == {"b"})


async def test_a_refusal_is_told_once_with_its_reason_and_tried_again(tmp_path, caplog):
    api = ScriptedApi([["a"]], [])
    api.failures = [(403, {"message": "pods is forbidden"})] * 3
    async with reflecting(tmp_path, api) as made:
        await until(lambda: made.is_synced)
        assert caplog.text.count("pods is forbidden") == 1


async def test_a_new_token_is_used_when_its_file_changes(tmp_path):
    gate = asyncio.Event()
    api = ScriptedApi([["a"]], [[gate, "end"]])
    async with reflecting(tmp_path, api):
        await until(lambda: len(api.requests) == 2)
        (tmp_path / "token").write_text("secret-2")
        gate.set()
        await until(lambda: len(api.requests) == 3)
        assert api.tokens == ["Bearer secret-1", "Bearer secret-1", "Bearer secret-2"]


async def test_a_server_that_ends_every_watch_at_once_is_not_hammered(tmp_path):
    api = ScriptedApi([["a"]], [["end"]] * 100)
    async with reflecting(tmp_path, api):
        await asyncio.sleep(0.5)
        assert 2 <= len(api.requests) <= 6


async def test_an_unusable_url_or_certificate_says_what_to_set(tmp_path):
    loop = asyncio.get_running_loop()
    with pytest.raises(ApiMisconfiguredError, match="give https://HOST:PORT"):
        ApiClient("api:6443", Credentials(tmp_path), loop)
    with pytest.raises(ApiMisconfiguredError, match=r"ca\.crt is no CA certificate"):
        ApiClient("https://api:6443", Credentials(tmp_path), loop)
