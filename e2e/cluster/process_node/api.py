"""The Kubernetes API over plain REST: the only module that talks to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp

from cluster.process_node.kubeconfig import Credentials
from cluster.process_node.objects import JsonObject

REQUEST_TIMEOUT_S = 30.0
MERGE_PATCH = "application/merge-patch+json"
NO_RELATION = "no relationship found"
RELATION_TRIES = 20
RELATION_PAUSE_S = 0.05
STRATEGIC_PATCH = "application/strategic-merge-patch+json"


class ApiError(Exception):
    """The API server refused. `status` is the HTTP code, `reason` Kubernetes' own word for it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class ApiUnreachableError(Exception):
    """No answer came: the server is gone, slow, or the connection broke."""


class ApiClient:
    """GET, POST, PATCH, DELETE and watch. All raise ApiError or ApiUnreachableError."""

    def __init__(self, credentials: Credentials) -> None:
        self._server = credentials.server
        self._tls = credentials.build_tls_context()
        self._headers = credentials.build_headers()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers={**self._headers, "User-Agent": "tandem-process-node", "Accept": "application/json"},
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> JsonObject:
        return await self._call("GET", path, query=query)

    async def find(self, path: str) -> JsonObject | None:
        """Like get, but None for an object that does not exist."""
        try:
            return await self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def create(self, path: str, body: JsonObject) -> JsonObject:
        return await self._call("POST", path, body=body)

    async def patch(self, path: str, body: JsonObject, kind: str = MERGE_PATCH) -> JsonObject:
        return await self._call("PATCH", path, body=body, content_type=kind)

    async def delete(self, path: str, options: JsonObject) -> None:
        await self._call("DELETE", path, body=options)

    async def watch(self, path: str, query: Mapping[str, str], silence_s: float) -> AsyncIterator[JsonObject]:
        """Events of one watch until the server ends it, or is silent for longer than silence_s."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT_S, sock_read=silence_s)
        try:
            async with self._open().get(
                self._server + path, params={**query, "watch": "true"}, timeout=timeout
            ) as response:
                await _raise_for_status(response)
                async for line in _lines(response.content):
                    yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiUnreachableError(f"watch {path}: {error!r}") from error

    async def _call(self, method: str, path: str, **request: Any) -> JsonObject:
        """Once, or for a second while the Node authorizer has not yet heard that the pod is ours."""
        for _ in range(RELATION_TRIES):
            try:
                return await self._call_once(method, path, **request)
            except ApiError as error:
                if error.status != 403 or NO_RELATION not in error.message:
                    raise
            await asyncio.sleep(RELATION_PAUSE_S)
        return await self._call_once(method, path, **request)

    async def _call_once(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        content_type: str = "application/json",
    ) -> JsonObject:
        try:
            async with self._open().request(
                method,
                self._server + path,
                params=query,
                data=None if body is None else json.dumps(body).encode(),
                headers=None if body is None else {"Content-Type": content_type},
                timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
            ) as response:
                await _raise_for_status(response)
                answer: JsonObject = await response.json()
                return answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiUnreachableError(f"{method} {path}: {error!r}") from error

    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "ApiClient is used inside `async with` only"
        return self._session


async def _raise_for_status(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    text = await response.text()
    raise parse_error(response.status, text)


def parse_error(status: int, text: str) -> ApiError:
    """The error in a Kubernetes Status object, or in whatever else a server answered."""
    try:
        body: Any = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {"message": text[:500]}
    return ApiError(body.get("code") or status, body.get("reason", "Unknown"), body.get("message", ""))


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    # Not content.readline(): it refuses lines above its buffer's size, and one pod may be 1 MiB.
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
