"""Processes as in a cluster, on loopback addresses of their own: workers, a router, and the keys that they share."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from tandem_api.worker import EngineConfig, KVTransferConfig, ModelConfig, WorkerConfig
from tandem_core.key_files import ENGINE_KEY_FILE, KEY_ID_FILE, KV_KEY_FILE
from tandem_core.keys import (
    ROUTER_KEY_FILE,
    derive_engine_token,
    derive_kv_key,
    derive_router_key,
    encode_key,
)

ROOT = bytes(range(32))
UID = "uid-1"
READY_S = 60.0


class Workers:
    """Worker processes of one fleet."""

    def __init__(self, folder):
        self.folder = folder
        self.net = f"127.{random.randrange(64, 128)}.{random.randrange(1, 255)}"
        self.processes = {}
        self._commands = {}
        self.entries = []
        keys = folder / "keys"
        keys.mkdir()
        router_key = derive_router_key(ROOT)
        (keys / ENGINE_KEY_FILE).write_text(derive_engine_token(router_key, UID))
        (keys / KV_KEY_FILE).write_text(encode_key(derive_kv_key(ROOT, UID)))
        (keys / KEY_ID_FILE).write_text("k1")
        (folder / ROUTER_KEY_FILE).write_text(encode_key(router_key))

    def start(self, name, role, *, engine=None, python=sys.executable):
        """Start one worker; it is ready some time later."""
        address = f"{self.net}.{len(self.entries) + 1}"
        place = self.folder / name
        for part in ("run", "data"):
            (place / part).mkdir(parents=True)
        config = WorkerConfig(
            fleet="default/demo",
            role=role,
            kv_revision="r1",
            model=ModelConfig(name="tiny", served_name="m", source="synthetic://tiny-llama"),
            engine=engine or EngineConfig(type="sim"),
            kv_transfer=KVTransferConfig(),
        )
        env = os.environ | {
            "TANDEM_WORKER": config.model_dump_json(),
            "POD_IP": address,
            "TANDEM_KEYS_DIR": str(self.folder / "keys"),
            "TANDEM_RUN_DIR": str(place / "run"),
            "TANDEM_DATA_DIR": str(place / "data"),
            "TANDEM_TERMINATION_LOG": str(place / "termination"),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith(("/operator", "/workers"))),
            "OMP_NUM_THREADS": "1",
        }
        self._commands[name] = ([python, "-m", "tandem_worker"], env)
        self._spawn(name)
        self.entries.append({"name": name, "role": role, "address": address, "kvRevision": "r1"})

    def write_fleet(self, **fleet):
        """The static file of a router over these workers."""
        file = self.folder / "fleets.json"
        base = {"name": "demo", "servedName": "m", "uid": UID, "workers": self.entries}
        file.write_text(json.dumps({"fleets": [{**base, **fleet}]}))
        return file

    def _spawn(self, name):
        command, env = self._commands[name]
        with (self.folder / name / "log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def kill(self, name):
        """A worker and all that it started are gone without a word."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()

    def restart(self, name):
        """Start a killed worker once more."""
        self._spawn(name)

    def stop(self):
        """End them all."""
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class RouterProcess:
    """`tandem-router` as it is run, over a static file."""

    def __init__(self, folder, file, *arguments, env=None):
        self.port, internal = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        paths = [path for path in sys.path if path.endswith(("/operator", "/router"))]
        command = [sys.executable, "-m", "tandem_router", "--static", str(file), "--keys-dir", str(folder)]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--internal-port", str(internal), *arguments]
        log = (folder / "router.log").open("w")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | (env or {})
        self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def wait_for_model(self, timeout_s=READY_S):
        """Wait until the fleet can be served."""
        self._wait("/v1/models", lambda text: all(one["ready"] for one in json.loads(text)["data"]), timeout_s)

    def wait_for_workers(self, count, timeout_s=READY_S):
        """Wait until so many workers take requests."""
        self._wait("/metrics", lambda text: count_workers(text) == count, timeout_s)

    def read_metrics(self):
        """The router's metrics as text."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:  # noqa: S310 - loopback
            return answer.read().decode()

    def _wait(self, path, is_good, timeout_s):
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            try:
                with urllib.request.urlopen(self.url + path, timeout=2) as answer:  # noqa: S310 - loopback
                    if is_good(answer.read().decode()):
                        return
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.1)
        raise AssertionError(f"{path} did not become good within {timeout_s} s")

    def stop(self):
        """End it."""
        self.process.kill()
        self.process.wait()


def count_workers(metrics):
    """Workers that take requests, by the router's own account."""
    return sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("tandem_router_workers{"))


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
