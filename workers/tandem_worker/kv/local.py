"""Client of a rank's local socket, for the worker's admin server."""

import asyncio
import json
from pathlib import Path
from typing import Any


class LocalError(RuntimeError):
    """The rank did not answer, or refused; the message says which socket and why."""


async def fetch_stats(path: Path, timeout_s: float = 1.0) -> dict[str, Any]:
    """Leases, sessions, transfers, bytes, failures and tokens of one rank. Raises LocalError."""
    return await _ask(path, {"op": "stats"}, timeout_s)


async def fetch_load(path: Path, remote_request_id: str, timeout_s: float = 1.0) -> dict[str, Any] | None:
    """What came of one of the rank's last loads; None when it is not among them. Raises LocalError."""
    reply = await _ask(path, {"op": "load", "request_id": remote_request_id}, timeout_s)
    load: dict[str, Any] | None = reply["load"]
    return load


async def apply_release(path: Path, request_id: str, timeout_s: float = 1.0) -> int:
    """End the leases whose id contains `request_id`, now and for a minute to come; returns how many ended now."""
    return _released(await _ask(path, {"op": "release", "request_id": request_id}, timeout_s))


async def apply_release_params(path: Path, params: dict[str, Any], timeout_s: float = 1.0) -> int:
    """End the lease that these signed `kv_transfer_params` name; returns how many ended now."""
    return _released(await _ask(path, {"op": "release", "params": params}, timeout_s))


def _released(reply: dict[str, Any]) -> int:
    return int(reply["released"])


async def _ask(path: Path, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    try:
        async with asyncio.timeout(timeout_s):
            line = await _exchange(path, json.dumps(request).encode() + b"\n")
        reply = json.loads(line)
    except (OSError, ValueError) as error:
        raise LocalError(f"{path}: no answer from the KV rank: {error or type(error).__name__}") from error
    if not isinstance(reply, dict) or "error" in reply:
        raise LocalError(f"{path}: {reply['error'] if isinstance(reply, dict) else 'not a JSON object'}")
    return reply


async def _exchange(path: Path, line: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(line)
        await writer.drain()
        return await reader.readline()
    finally:
        writer.close()
