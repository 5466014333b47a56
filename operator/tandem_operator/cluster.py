"""The only module that talks to the API server: plain REST, one method per way of reading or writing.

Writes pass a fence first (the lease), and every call must be listed in `rbac.ACCESS`.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from tandem_operator.credentials import Credentials
from tandem_operator.errors import ApiError, Unreachable, api_error
from tandem_operator.kinds import Kind, Manifest, kind_of
from tandem_operator.metrics import Metrics
from tandem_operator.rbac import is_allowed

PAGE_SIZE = 500
_TIMEOUT = aiohttp.ClientTimeout(total=15, sock_connect=5)
_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


@dataclass(frozen=True)
class Page:
    """A part of a list. `version` is the resourceVersion of the whole list."""

    items: tuple[Manifest, ...]
    version: int


@dataclass(frozen=True)
class _Call:
    """One request, named as RBAC names it."""

    verb: str
    kind: Kind
    method: str
    path: str
    query: Mapping[str, str]
    body: Manifest | None = None
    content_type: str = _JSON
    subresource: str = ""


class Cluster:
    """A connection to one API server.

    Args:
        fence: raises NotLeader when this replica may not write now.
    """

    def __init__(self, credentials: Credentials, metrics: Metrics, fence: Callable[[], None]) -> None:
        self._credentials = credentials
        self._metrics = metrics
        self._fence = fence
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._credentials.tls(), limit=64)
        # trust_env stays off: a proxy variable must not carry the cluster's secrets elsewhere.
        self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT)
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    async def fetch(self, kind: Kind, namespace: str, name: str) -> Manifest:
        """One object by name.

        Raises:
            NotFound: there is none.
        """
        return await self._send(_Call("get", kind, "GET", f"{kind.path(namespace)}/{name}", {}))

    async def fetch_pages(self, kind: Kind, namespace: str | None, selector: str) -> AsyncIterator[Page]:
        """All objects that match, in pages; consistent as of one version."""
        query = {"limit": str(PAGE_SIZE)} | ({"labelSelector": selector} if selector else {})
        while True:
            answer = await self._send(_Call("list", kind, "GET", kind.path(namespace), query))
            meta = answer["metadata"]
            yield Page(tuple(answer.get("items") or ()), int(meta["resourceVersion"]))
            if not meta.get("continue"):
                return
            query = {**query, "continue": meta["continue"]}

    async def fetch_resources(self, group: str, version: str) -> frozenset[str]:
        """Plural names that the server knows in a group; empty when it does not know the group."""
        session = self._live_session()
        url = f"{self._credentials.server}/apis/{group}/{version}"
        try:
            async with session.get(url, headers=self._headers(_JSON)) as response:
                found = await response.json() if response.status == 200 else {}
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(0, "Unreachable", f"{self._credentials.server}: {error}") from error
        return frozenset(resource["name"] for resource in found.get("resources", ()))

    async def apply(self, manifest: Manifest, manager: str, *, uid: str | None) -> Manifest:
        """Server-side apply. With `uid`, of exactly that object, taking over its fields; without, of a new one.

        Raises:
            Conflict: a new object's name is taken by another's object, or the object is not the one that was seen.
            Rejected: the manifest is invalid or forbidden.
        """
        metadata = {**manifest["metadata"], **({"uid": uid} if uid else {})}
        query = {"fieldManager": manager, "force": "true" if uid else "false"}
        return await self._patch({**manifest, "metadata": metadata}, query)

    async def merge(self, manifest: Manifest, manager: str, *, uid: str) -> Manifest:
        """Merge patch of exactly the object with `uid`: every list becomes what the manifest says."""
        metadata = {**manifest["metadata"], "uid": uid}
        query = {"fieldManager": manager}
        return await self._patch({**manifest, "metadata": metadata}, query, content_type=_MERGE)

    async def apply_status(self, manifest: Manifest, manager: str) -> Manifest:
        """Server-side apply of the status subresource."""
        return await self._patch(manifest, {"fieldManager": manager, "force": "true"}, "status")

    async def _patch(
        self, manifest: Manifest, query: Mapping[str, str], subresource: str = "", content_type: str = _APPLY
    ) -> Manifest:
        kind, metadata = kind_of(manifest), manifest["metadata"]
        path = f"{kind.path(metadata['namespace'])}/{metadata['name']}"
        path = f"{path}/{subresource}" if subresource else path
        return await self._write(_Call("patch", kind, "PATCH", path, query, manifest, content_type, subresource))

    async def create(self, manifest: Manifest, manager: str, *, fenced: bool = True) -> Manifest:
        """A new object.

        Raises:
            Conflict: it exists.
        """
        kind = kind_of(manifest)
        path = kind.path(manifest["metadata"]["namespace"])
        call = _Call("create", kind, "POST", path, {"fieldManager": manager}, manifest)
        return await (self._write(call) if fenced else self._send(call))

    async def scale(self, kind: Kind, namespace: str, name: str, replicas: int, manager: str) -> None:
        """Write of the scale subresource."""
        path = f"{kind.path(namespace)}/{name}/scale"
        body = {"spec": {"replicas": replicas}}
        await self._write(_Call("patch", kind, "PATCH", path, {"fieldManager": manager}, body, _MERGE, "scale"))

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> Manifest:
        """Deletion of exactly the object with `uid`; its children follow in the background.

        Returns:
            The object, when it stays until its finalizers are done; else a `Status`.
        """
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        return await self._write(_Call("delete", kind, "DELETE", f"{kind.path(namespace)}/{name}", {}, body))

    async def replace_lease(self, lease: Manifest) -> Manifest:
        """Update of a Lease, guarded by its resourceVersion. The one write that needs no lease."""
        kind, metadata = kind_of(lease), lease["metadata"]
        path = f"{kind.path(metadata['namespace'])}/{metadata['name']}"
        return await self._send(_Call("update", kind, "PUT", path, {}, lease))

    async def _write(self, call: _Call) -> Manifest:
        self._fence()
        return await self._send(call)

    async def _send(self, call: _Call) -> Manifest:
        assert is_allowed(call.verb, call.kind, call.subresource), f"add {call.verb} {call.path} to rbac.ACCESS"
        code = "none"
        try:
            async with self._live_session().request(
                call.method,
                self._credentials.server + call.path,
                params=call.query,
                data=json.dumps(call.body) if call.body is not None else None,
                headers=self._headers(call.content_type),
            ) as response:
                code = str(response.status)
                return _checked(response.status, response.headers.get("Retry-After", ""), await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(0, "Unreachable", f"{self._credentials.server}: {error or 'no answer'}") from error
        finally:
            self._metrics.api_calls.labels(call.verb, call.kind.name, code).inc()

    def _headers(self, content_type: str) -> dict[str, str]:
        token = self._credentials.bearer()
        identity = {"Authorization": f"Bearer {token}"} if token else {}
        return {"Content-Type": content_type, "Accept": _JSON, "User-Agent": "tandem-operator", **identity}

    def _live_session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use `async with Cluster(...)`"
        return self._session


def _checked(status: int, retry_after: str, body: bytes) -> Manifest:
    if status >= 400:
        raise _refusal(status, float(retry_after) if retry_after.isdigit() else 0.0, body)
    try:
        answer: Any = json.loads(body)
        return dict(answer)
    except (ValueError, TypeError):
        raise Unreachable(status, "BadAnswer", f"an answer that is no object: {body[:100]!r}") from None


def _refusal(status: int, retry_after_s: float, body: bytes) -> ApiError:
    try:
        failure = json.loads(body)
        return api_error(status, failure.get("reason", ""), failure.get("message", ""), retry_after_s)
    except (ValueError, AttributeError):
        return api_error(status, "", body[:500].decode(errors="replace"), retry_after_s)
