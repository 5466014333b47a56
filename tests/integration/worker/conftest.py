"""Real workers for tests: `python -m tandem_worker` with the environment that the operator renders, vLLM inside.

TANDEM_WORKER_PYTHON names the interpreter that has vLLM. Without it these tests are skipped, and fail where
TANDEM_REQUIRE_VLLM=1.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from integration.router.fleet_site import ROOT, UID

from tandem_core.keys import derive_engine_token, derive_router_key

REPOSITORY = Path(__file__).parents[3]
# NIXL is no part of the environment with vLLM; where it lies beside it, workers may use it.
NIXL = [os.environ["TANDEM_NIXL_DIR"]] if "TANDEM_NIXL_DIR" in os.environ else []
CODE = os.pathsep.join([*(str(REPOSITORY / folder) for folder in ("operator", "workers")), *NIXL])
TOKEN = derive_engine_token(derive_router_key(ROOT), UID)  # what a router with that root asks with
START_TIMEOUT_S = 600.0  # a quiet machine takes 25 s, two cores at a load of 23 have taken 250


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


@dataclass
class WorkerProcess:
    """A started worker. Everything it needs to know it was told by its environment."""

    process: "subprocess.Popen[bytes]"
    address: str
    directory: Path
    client: httpx.Client

    @property
    def termination(self) -> str:
        return (self.directory / "termination").read_text()

    def wait_ready(self) -> float:
        """Seconds until /readyz said so, from now."""
        started_s = time.monotonic()
        while time.monotonic() - started_s < START_TIMEOUT_S:
            assert self.process.poll() is None, self.read_log()
            if self.is_ready():
                return time.monotonic() - started_s
            time.sleep(0.25)
        raise TimeoutError(self.read_log())

    def is_ready(self) -> bool:
        try:
            return self.client.get(self.admin("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    def admin(self, path: str) -> str:
        return f"http://{self.address}:8001{path}"

    def engine(self, path: str) -> str:
        return f"http://{self.address}:8000{path}"

    def state(self) -> dict[str, Any]:
        time.sleep(0.3)  # it may be a quarter of a second old
        state: dict[str, Any] = self.client.get(self.admin("/tandem/v1/state")).json()
        return state

    def complete(self, prompt: str | list[int], max_tokens: int = 24, **more: Any) -> dict[str, Any]:
        body = {"model": "tiny", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, **more}
        answer = self.client.post(self.engine("/v1/completions"), json=body)
        answer.raise_for_status()
        content: dict[str, Any] = answer.json()
        return content

    def read_log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-6000:]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.client.close()


Start = Callable[..., WorkerProcess]


@pytest.fixture(scope="session")
def start_worker(worker_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts workers, each on a loopback address of its own; ends them all."""
    workers: list[WorkerProcess] = []

    def start(role: str, **engine: Any) -> WorkerProcess:
        directory = tmp_path_factory.mktemp("worker")
        address = f"127.{120 + os.getpid() % 100}.{os.getpid() // 100 % 250}.{len(workers) + 1}"
        environment = {
            "PYTHONPATH": CODE,
            "PATH": os.environ["PATH"],
            **build_environment(directory, address, role, engine),
        }
        with (directory / "log").open("wb") as log:
            command = [worker_python, "-m", "tandem_worker"]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=directory)
        client = httpx.Client(headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)
        workers.append(WorkerProcess(process, address, directory, client))
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()


def build_environment(directory: Path, address: str, role: str, engine: dict[str, Any]) -> dict[str, str]:
    """What the operator renders into a pod, with every mount below `directory`."""
    keys = directory / "keys"
    keys.mkdir()
    (keys / "engine.key").write_text(TOKEN)
    (keys / "kv.key").write_text("a" * 43)
    (keys / "kid").write_text("k1")
    source = engine.pop("source", "synthetic://tiny-llama")
    connector = engine.pop("connector", "tcp")
    adapters = engine.pop("adapters", [])
    config = {
        "fleet": "default/chat",
        "role": role,
        "kv_revision": "r1",
        "model": {"name": "tiny", "served_name": "tiny", "source": source, "adapters": adapters},
        "engine": {"type": "vllm", "max_num_seqs": 8, **engine},
        "kv_transfer": None if role == "mixed" else {"connector": connector, "lease_s": 30},
        "drain_timeout_s": 60,
    }
    return {
        "TANDEM_WORKER": json.dumps(config),
        "POD_IP": address,
        "TANDEM_KEYS_DIR": str(keys),
        "TANDEM_RUN_DIR": str(directory / "run"),
        "TANDEM_DATA_DIR": str(directory / "data"),
        "TANDEM_TERMINATION_LOG": str(directory / "termination"),
    }
