"""What a measurement puts into a cluster before it begins."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from cluster.api import Cluster

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0


def build_fleet(name: str, prefill: int, decode: int) -> dict[str, Any]:
    """A fleet of simulated engines."""
    return {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"name": name, "source": "synthetic://tiny-llama"},
            "engine": {"type": "sim"},
            "drain": {"timeoutSeconds": 1},
            "prefill": {"replicas": prefill},
            "decode": {"replicas": decode},
        },
    }


def install_definitions(cluster: Cluster) -> None:
    """Our kinds, served."""
    cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    deadline = time.monotonic() + PATIENCE_S
    while not are_established(cluster):
        if time.monotonic() > deadline:
            raise TimeoutError("the definitions are not established")
        time.sleep(0.5)


def are_established(cluster: Cluster) -> bool:
    """Whether the API server serves every definition; `kubectl wait` fails on one that has no status yet."""
    definitions = json.loads(cluster.kubectl("get", "crd", "-o", "json"))["items"]
    conditions = [d.get("status", {}).get("conditions") or () for d in definitions]
    return all(any(c["type"] == "Established" and c["status"] == "True" for c in found) for found in conditions)
