"""Real vLLM servers on CPU, one process each, for tests of the KV connector."""

import base64
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

REPOSITORY = Path(__file__).resolve().parents[3]
BLOCK_TOKENS = 32
NIXL = [os.environ["TANDEM_NIXL_DIR"]] if "TANDEM_NIXL_DIR" in os.environ else []  # beside the environment with vLLM
# In bf16 one engine alone disagrees with itself on 10 of 40 prompts when a prefix comes from its own cache, because the
# rounding of another batch shape flips near ties of a random model. In float32: 0 of 40. So equality is exact here.
DTYPE, DTYPE_BYTES = "float32", 4
START_TIMEOUT_S = 240
PROMPT_LENGTHS = (5, 17, 31, 32, 33, 64, 100, 257, 500, 777, 1200, 1500)
FLEET = "test/fleet"
KEY = b"k" * 32


@dataclass
class Engine:
    """A running `vllm serve`; `kv` are the connector's settings, None without a connector; `kv["port"]` is open."""

    address: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    run_dir: Path
    kv: dict[str, Any] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    client: httpx.Client = field(init=False)
    _command: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        self._command = self.process.args  # type: ignore[assignment]  # a list of str: `launch` takes nothing else
        self.client = httpx.Client(base_url=f"http://{self.address}:{self.port}", timeout=60, trust_env=False)

    def wait_ready(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"vLLM ended with {self.process.returncode}:\n{self.tail()}")
            try:
                if self.client.get("/health").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                time.sleep(0.2)
        raise RuntimeError(f"vLLM was not ready in {START_TIMEOUT_S} s:\n{self.tail()}")

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def complete(self, prompt: list[int], max_tokens: int = 40, **body: Any) -> dict[str, Any]:
        answer = self.client.post(
            "/v1/completions",
            json={
                "model": "m",
                "prompt": prompt,
                "max_tokens": max_tokens,
                "temperature": 0,
                "ignore_eos": True,
                **body,
            },
        )
        answer.raise_for_status()
        return answer.json()

    def stats(self) -> dict[str, Any]:
        return self.ask({"op": "stats"})

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.run_dir / "kv-0.sock"))
            connection.sendall(json.dumps(request).encode() + b"\n")
            return json.loads(connection.makefile().readline())

    def kill(self, with_signal: int = signal.SIGKILL) -> None:
        """To the whole process group, which this test made."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, with_signal)

    def restart(self) -> None:
        """Start it anew at the same addresses. Does not wait until it is ready."""
        self.process.wait(10)
        self.process = launch(self._command, self.log, self.environment)

    def stop(self) -> None:
        self.kill(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait(10)
        self.client.close()


@dataclass(frozen=True)
class Fleet:
    """One engine of each kind."""

    plain: Engine
    prefill: Engine
    decode: Engine
    corrupting: Engine


def find_free_port(address: str) -> int:
    with socket.create_server((address, 0)) as listener:
        return int(listener.getsockname()[1])


def write_keys(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "kv.key").write_text(base64.urlsafe_b64encode(KEY).decode())
    (directory / "kid").write_text("k1")
    return directory


def make_tiny_model(python: str, directory: Path) -> Path:
    command = [python, "-m", "tandem_worker.tiny_model", str(directory)]
    subprocess.run(command, check=True, env=build_environment({}), timeout=120, stdout=subprocess.DEVNULL)
    return directory


def build_environment(extra: Mapping[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "workers"), str(REPOSITORY / "operator"), *NIXL]),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_TARGET_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        **extra,
    }


def start_engine(  # one argument more than the rule, and all of them what an engine is
    python: str,
    model: Path,
    work_dir: Path,
    address: str,
    role: str | None,
    tp_size: int = 1,
    *,
    block_tokens: int = BLOCK_TOKENS,
    dtype: str = DTYPE,
    is_nixl: bool = False,
    **settings: Any,
) -> Engine:
    """`role`: prefill, decode or None for a plain engine. `settings` are added to the connector's own."""
    work_dir.mkdir(parents=True, exist_ok=True)
    port = find_free_port(address)
    command = [
        python, "-m", "tandem_worker.engines.vllm_main", "serve", str(model),
        "--served-model-name", "m", "--host", address, "--port", str(port), "--max-model-len", "2048",
        "--enforce-eager", "--max-num-seqs", "8", "--distributed-executor-backend", "mp" if tp_size > 1 else "uni",
        "--tensor-parallel-size", str(tp_size),
        "--kv-cache-memory-bytes", "64M", "--block-size", str(block_tokens), "--enable-prompt-tokens-details",
        "--dtype", dtype,
    ]  # fmt: skip
    kv: dict[str, Any] | None = None
    environment: dict[str, str] = {}
    if role is not None:
        kv = {"port": find_free_port(address), "keys_dir": str(write_keys(work_dir / "keys")), "run_dir": str(work_dir)}
        kv |= {"fleet": FLEET, **settings}
        connector = _describe_nixl(kv) if is_nixl else _describe_own(kv, address, role)
        environment = _nixl_environment(address, kv["port"]) if is_nixl else {}
        transfer = {
            **connector,
            "kv_role": "kv_producer" if role == "prefill" else "kv_consumer",
            "kv_load_failure_policy": "recompute",
        }
        command += ["--kv-transfer-config", json.dumps(transfer)]
    log = work_dir / "vllm.log"
    return Engine(address, port, launch(command, log, environment), log, work_dir, kv, environment)


def _describe_own(kv: dict[str, Any], address: str, role: str) -> dict[str, Any]:
    own = {"transport": "tcp", "bind_host": address, "kv_revision": "r1", "engine_id": role, **kv}
    return {
        "kv_connector": "TandemConnector",
        "kv_connector_module_path": "tandem_worker.kv.connector",
        "kv_connector_extra_config": own,
    }


def _describe_nixl(kv: dict[str, Any]) -> dict[str, Any]:
    told = {"lease_s": 30.0} | {name: value for name, value in kv.items() if name != "port"}
    return {
        "kv_connector": "NixlConnector",
        "kv_connector_module_path": "tandem_worker.kv_nixl.connector",
        "kv_buffer_device": "cpu",
        "kv_connector_extra_config": {"kv_lease_duration": round(told["lease_s"]), "num_threads": 0, "tandem": told},
    }


def _nixl_environment(address: str, port: int) -> dict[str, str]:
    side_channel = {"VLLM_NIXL_SIDE_CHANNEL_HOST": address, "VLLM_NIXL_SIDE_CHANNEL_PORT": str(port)}
    return side_channel | {"UCX_NET_DEVICES": "lo", "UCX_TLS": "tcp,self,sm"}


def launch(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Its own session, so that all of an engine's processes can be signalled together."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=build_environment(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def prefill(engine: Engine, prompt: list[int], **body: Any) -> dict[str, Any]:
    """The first leg of a request; returns the ticket."""
    order = {"do_remote_decode": True, "do_remote_prefill": False}
    answer = engine.complete(prompt, max_tokens=1, kv_transfer_params=order, **body)
    params = answer["kv_transfer_params"]
    assert params, answer
    return params


def complete_disaggregated(prefiller: Engine, decoder: Engine, prompt: list[int], **body: Any) -> dict[str, Any]:
    """Both legs, as a router does them."""
    return decoder.complete(prompt, kv_transfer_params=prefill(prefiller, prompt), **body)


def text_of(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["text"]
