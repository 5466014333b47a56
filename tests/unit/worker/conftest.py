"""Parts of a worker for tests: keys, settings on a loopback address of the test's own, supervisors."""

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from unit.worker.parts import BEARER, TOKEN, Worker, build_config, running

from tandem_api.worker import Role
from tandem_worker.settings import Settings

MakeSettings = Callable[..., Settings]
Run = Callable[[Settings], Awaitable[Worker]]


@pytest.fixture
def keys_dir(tmp_path: Path) -> Path:
    """A fleet's keys, as the Secret is mounted."""
    directory = tmp_path / "keys"
    directory.mkdir()
    (directory / "engine.key").write_text(TOKEN + "\n")
    (directory / "kv.key").write_text("a" * 43)
    (directory / "kid").write_text("k1")
    return directory


@pytest.fixture
def make_settings(tmp_path: Path, keys_dir: Path) -> MakeSettings:
    """Settings of a sim worker; each call takes another address in 127.0.0.0/8, so that ports never meet."""
    numbers = itertools.count(1)

    def make(role: Role = Role.MIXED, **changes: Any) -> Settings:
        number = next(numbers)
        config = build_config(role, **changes)
        pid = os.getpid()
        address = f"127.{16 + pid % 200}.{pid // 200 % 250}.{number}"
        directory = tmp_path / str(number)
        for name in ("run", "data"):
            (directory / name).mkdir(parents=True)
        return Settings(config, address, keys_dir, directory / "run", directory / "data")

    return make


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that carries the fleet's key."""
    async with aiohttp.ClientSession(headers=BEARER, timeout=aiohttp.ClientTimeout(total=10)) as client:
        yield client


@pytest.fixture
async def run_worker() -> AsyncIterator[Run]:
    """Starts supervisors and waits until they are ready; ends them with the test."""
    async with AsyncExitStack() as stack:

        async def run(settings: Settings) -> Worker:
            return await stack.enter_async_context(running(settings))

        yield run
