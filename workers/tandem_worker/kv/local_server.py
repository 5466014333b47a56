"""The rank's unix socket: line-delimited JSON requests from the worker's own admin server."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

Answer = Callable[[dict[str, Any]], dict[str, Any]]


@asynccontextmanager
async def serve_local(path: Path, answer: Answer) -> AsyncIterator[None]:
    """Serve `answer` at `path`, for this user only, while the context lasts."""
    _make_way(path)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(_reply(line, answer)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            return  # the client left, or sent a line without end
        finally:
            writer.close()

    server = await asyncio.start_unix_server(converse, path)
    os.chmod(path, 0o600)
    try:
        yield
    finally:
        server.close()
        _make_way(path)


def _make_way(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a predecessor that was killed leaves its socket


def _reply(line: bytes, answer: Answer) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except ValueError:
        return {"error": "a request is one line of JSON"}
    return answer(request) if isinstance(request, dict) else {"error": "a request is a JSON object"}
