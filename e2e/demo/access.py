"""How the demo reaches a pod: directly where pods have loopback addresses, else through kubectl port-forward."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.errors import DemoError

FORWARD_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Access:
    """Opens pod ports of one namespace."""

    kubectl: Path
    kubeconfig: Path
    namespace: str

    @contextmanager
    def open_port(self, pod: Any, port: int) -> Iterator[str]:
        """Base URL at which `port` of `pod` answers while the block runs."""
        if pod.status.pod_ip.startswith("127."):
            yield f"http://{pod.status.pod_ip}:{port}"
        else:
            with self._forward(pod.metadata.name, port) as url:
                yield url

    @contextmanager
    def _forward(self, pod: str, port: int) -> Iterator[str]:
        local = _free_port()
        command = [str(self.kubectl), "--kubeconfig", str(self.kubeconfig), "-n", self.namespace]
        process = subprocess.Popen(
            [*command, "port-forward", f"pod/{pod}", f"{local}:{port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for_listener(local, process)
            yield f"http://127.0.0.1:{local}"
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for_listener(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + FORWARD_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise DemoError("kubectl port-forward did not come up", "check that kubectl reaches the cluster")
