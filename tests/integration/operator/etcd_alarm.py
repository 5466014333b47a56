"""The alarm that etcd raises when its quota is used up, on and off."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.api import Cluster
from cluster.processes import fetch_recorded


@contextmanager
def no_space(cluster: Cluster) -> Iterator[None]:
    """While the block runs, etcd refuses every write with "database space exceeded"."""
    url = fetch_etcd_url(cluster)
    _post(url, "ACTIVATE")
    try:
        yield
    finally:
        _post(url, "DEACTIVATE")


def fetch_etcd_url(cluster: Cluster) -> str:
    """Where the cluster's etcd listens for clients."""
    pid = fetch_recorded(cluster.run)["etcd"].pid
    flags = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return next(flag.partition("=")[2] for flag in flags if flag.startswith("--listen-client-urls="))


def _post(url: str, action: str) -> None:
    body = json.dumps({"action": action, "alarm": "NOSPACE"}).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/v3/maintenance/alarm", data=body, timeout=10) as answer:
        assert answer.status == 200
