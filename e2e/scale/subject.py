"""The operator as a process of its own, and what it costs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.api import Cluster
from scale.api import NAMESPACE

START_PATIENCE_S = 300.0


@dataclass
class Subject:
    """A running operator."""

    process: subprocess.Popen[bytes]
    metrics_port: int

    def metrics(self) -> dict[str, float]:
        """Samples by `name{labels}`; empty while nobody answers."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as answer:
                rows = (row.rsplit(" ", 1) for row in answer.read().decode().splitlines() if row[:1] not in ("", "#"))
                return {name: float(value) for name, value in rows}
        except (urllib.error.URLError, OSError):
            return {}

    def calls(self, *verbs: str) -> int:
        """API calls with one of these verbs so far, the lease and the root keys apart."""
        apart = ('kind="Lease"', 'kind="Secret"') if "get" in verbs else ('kind="Lease"',)
        return int(
            sum(
                value
                for name, value in self.metrics().items()
                if name.startswith("tandem_operator_api_calls_total")
                and not any(kind in name for kind in apart)
                and any(f'verb="{verb}"' in name for verb in verbs)
            )
        )

    def writes(self) -> int:
        """Changes so far."""
        return self.calls("create", "patch", "update", "delete")

    def reconciled(self) -> int:
        """Reconciliations that ended well."""
        return int(self.metrics().get('tandem_operator_reconcile_seconds_count{outcome="ok"}', 0))

    def is_leading(self) -> bool:
        """Whether it may write."""
        return self.metrics().get("tandem_operator_leader") == 1.0

    def rss_mib(self) -> float:
        """Resident memory."""
        return read_rss_mib(self.process.pid)

    def cpu_s(self) -> float:
        """Processor time since the start."""
        return read_cpu_s(self.process.pid)


@contextmanager
def run_operator(cluster: Cluster, folder: Path) -> Iterator[Subject]:
    """The operator, leading; ended with the block."""
    port = free_port()
    flags = ["--kubeconfig", str(cluster.kubeconfig), "--namespace", NAMESPACE, "--namespaces", NAMESPACE]
    flags += ["--health-host", "127.0.0.1", "--health-port", "0", "--metrics-port", str(port)]
    environment = {**os.environ, "POD_NAME": "scale"}
    with (folder / "operator.log").open("ab") as out:
        process = subprocess.Popen([sys.executable, "-m", "tandem_operator", *flags], stderr=out, env=environment)
    subject = Subject(process, port)
    try:
        deadline = time.monotonic() + START_PATIENCE_S
        while not subject.is_leading():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the operator does not lead: {(folder / 'operator.log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield subject
    finally:
        process.terminate()
        process.wait(60)


def free_port() -> int:
    """A loopback port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_rss_mib(pid: int) -> float:
    """VmRSS."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(row.split()[1] for row in rows if row.startswith("VmRSS"))) / 1024


def read_cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
