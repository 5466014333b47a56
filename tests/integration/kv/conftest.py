"""Real engines for the KV tests: one plain vLLM as the truth, one prefill, one decode, one decode that corrupts.

TANDEM_WORKER_PYTHON names the interpreter that has vLLM (`make worker-venv` makes one). Without it these tests are
skipped, and fail where TANDEM_REQUIRE_VLLM=1.
"""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.kv.vllm_engine import Engine, Fleet, make_tiny_model, start_engine

SLOW = {"chunk_bytes": 64 << 10, "chunk_delay_s_for_test": 0.05}


@pytest.fixture(scope="session")
def worker_python() -> str:
    """The interpreter that has vLLM."""
    python = os.environ.get("TANDEM_WORKER_PYTHON")
    if not python:
        reason = "TANDEM_WORKER_PYTHON is not set: it names a Python with vLLM (CPU build) for real engines"
        if os.environ.get("TANDEM_REQUIRE_VLLM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return python


@pytest.fixture(scope="session")
def tiny_model(worker_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(worker_python, tmp_path_factory.mktemp("tiny") / "model")


Starter = Callable[..., Engine]


@pytest.fixture(scope="session")
def start(worker_python: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts engines, each on a loopback address of its own; ends them all."""
    engines: list[Engine] = []

    def start_one(role: str | None, **settings: Any) -> Engine:
        address = f"127.0.{7 + os.getpid() % 200}.{len(engines) + 1}"
        work_dir = tmp_path_factory.mktemp("kv")
        engines.append(start_engine(worker_python, tiny_model, work_dir, address, role, **settings))
        return engines[-1]

    yield start_one
    for engine in engines:
        engine.stop()


@pytest.fixture(scope="session")
def fleet(start: Starter) -> Fleet:
    """All four start at once, for start-up is what takes time."""
    decode = start("decode")
    engines = Fleet(start(None), start("prefill"), decode, start("decode", corrupt_for_test=True))
    for engine in (engines.plain, engines.prefill, engines.decode, engines.corrupting):
        engine.wait_ready()
    return engines


@pytest.fixture(scope="module")
def slow_prefill(fleet: Fleet, start: Starter) -> Engine:
    """A prefill engine that sends one block at a time, slowly enough to be interrupted. The last test kills it."""
    engine = start("prefill", **SLOW)
    engine.wait_ready()
    return engine


@pytest.fixture
def make_prompt(request: pytest.FixtureRequest) -> Callable[[int], list[int]]:
    """Random token ids, others in every test, so that no prefix cache helps."""
    rng = random.Random(request.node.nodeid)
    return lambda tokens: [rng.randrange(5, 900) for _ in range(tokens)]
