"""The actions of probes and hooks: exec, httpGet, tcpSocket, sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from cluster.process_node.objects import JsonObject
from cluster.process_node.processes import Launch, LaunchError, run_to_end

_BODY_LIMIT_BYTES = 10_240


@dataclass(frozen=True)
class CheckResult:
    ok: bool
    message: str = ""


@dataclass(frozen=True)
class CheckTarget:
    """The container that is checked: its address, its named ports, and how a command runs inside it."""

    host: str
    ports: Mapping[str, int]
    session: aiohttp.ClientSession
    build_exec: Callable[[Sequence[str]], Launch]

    def port(self, value: int | str) -> int:
        """Raises KeyError for a name that no containerPort has."""
        return value if isinstance(value, int) else self.ports[value]


def named_ports(container: JsonObject) -> dict[str, int]:
    return {p["name"]: int(p["containerPort"]) for p in container.get("ports") or [] if p.get("name")}


async def perform(action: JsonObject, target: CheckTarget, timeout_s: float | None) -> CheckResult:
    """Runs the one action that a probe or hook holds; every failure is a result, never an exception."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _perform(action, target)
    except TimeoutError:
        return CheckResult(False, f"timed out after {timeout_s} s")
    except KeyError as error:
        return CheckResult(False, f"no containerPort is named {error}")
    except (aiohttp.ClientError, OSError, LaunchError, ValueError) as error:
        return CheckResult(False, str(error) or repr(error))


async def _perform(action: JsonObject, target: CheckTarget) -> CheckResult:
    if "exec" in action:
        return await _exec(action["exec"]["command"], target)
    if "httpGet" in action:
        return await _http_get(action["httpGet"], target)
    if "tcpSocket" in action:
        return await _connect(action["tcpSocket"], target)
    if "sleep" in action:
        await asyncio.sleep(float(action["sleep"]["seconds"]))
        return CheckResult(True)
    return CheckResult(False, "only exec, httpGet, tcpSocket and sleep are supported by the process node")


async def _exec(command: Sequence[str], target: CheckTarget) -> CheckResult:
    code, output = await run_to_end(target.build_exec(command))
    return CheckResult(code == 0, f"command exited with {code}: {output.strip()}" if code else output)


async def _http_get(action: JsonObject, target: CheckTarget) -> CheckResult:
    async with target.session.get(
        build_url(action, target),
        headers={header["name"]: header["value"] for header in action.get("httpHeaders") or []},
        allow_redirects=False,  # a redirect counts as success, as long as it is one of 3xx
    ) as response:
        body = await response.content.read(_BODY_LIMIT_BYTES)
        if 200 <= response.status < 400:
            return CheckResult(True)
        text = body.decode(errors="replace").strip()
        return CheckResult(False, f"HTTP probe failed with statuscode: {response.status} {text}".strip())


async def _connect(action: JsonObject, target: CheckTarget) -> CheckResult:
    _, writer = await asyncio.open_connection(action.get("host") or target.host, target.port(action["port"]))
    writer.close()
    return CheckResult(True)


def build_url(action: JsonObject, target: CheckTarget) -> str:
    scheme = (action.get("scheme") or "HTTP").lower()
    path = "/" + (action.get("path") or "/").lstrip("/")
    return f"{scheme}://{action.get('host') or target.host}:{target.port(action['port'])}{path}"


def build_probe_session() -> aiohttp.ClientSession:
    """One session for all probes: a fresh connection each, as kubelets do, and no check of certificates."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=False, force_close=True, limit=0),
        headers={"User-Agent": "kube-probe/1.37", "Accept": "*/*"},
    )
