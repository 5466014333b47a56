"""Who else may size a pool: a real HorizontalPodAutoscaler, kubectl, and changes of mode that move nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from integration.operator.conftest import Installation, Kube, OperatorProcess, make_manifest, wait_until
from integration.operator.metrics_server import METRIC, serve_metrics

from cluster.errors import ClusterError

pytestmark = [pytest.mark.integration, pytest.mark.long]

EXTERNAL = {"autoscaling": {"mode": "External"}}


@pytest.fixture(scope="module")
def operator(installation: Installation) -> Iterator[OperatorProcess]:
    with installation.replica() as process:
        yield process


def size(kube: Kube, pool: str) -> int:
    return int(kube.get("wpool", pool)["spec"]["replicas"])


def wait_ready(kube: Kube, fleet: str, text: str, timeout_s: float = 60) -> None:
    wait_until(lambda: kube.get("infd", fleet).get("status", {}).get("readyText") == text, timeout_s)


def build_autoscaler(pool: str) -> dict[str, Any]:
    """Ten queued tokens a worker; quick both ways."""
    policies = [{"type": "Pods", "value": 10, "periodSeconds": 15}]
    window = {"stabilizationWindowSeconds": 0, "policies": policies}
    metric = {"metric": {"name": METRIC}, "target": {"type": "AverageValue", "averageValue": "10"}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": pool},
        "spec": {
            "scaleTargetRef": {"apiVersion": "tandem.dev/v1alpha1", "kind": "WorkerPool", "name": pool},
            "minReplicas": 1,
            "maxReplicas": 6,
            "metrics": [{"type": "External", "external": metric}],
            "behavior": {"scaleUp": window, "scaleDown": window},
        },
    }


def test_a_horizontal_pod_autoscaler_moves_a_pool_up_and_down(
    installation: Installation, operator: OperatorProcess, kube: Kube
) -> None:
    kube.apply(make_manifest("hpa", prefill=None, decode={"replicas": 2}, **EXTERNAL))
    wait_ready(kube, "hpa", "D 2/2")
    with serve_metrics(installation.cluster, installation.home, installation.folder) as metrics:
        metrics.value = 40
        kube.apply(build_autoscaler("hpa-decode"))
        wait_ready(kube, "hpa", "D 4/4", 120)
        metrics.value = 15
        wait_ready(kube, "hpa", "D 2/2", 120)
        kube.apply(make_manifest("hpa", prefill=None, decode={"replicas": 5}, **EXTERNAL))
        kube.wait_condition("hpa", "DecodeReady", "True", "Available")
        assert size(kube, "hpa-decode") == 2
        conditions = {c["type"]: c["status"] for c in kube.get("hpa", "hpa-decode")["status"]["conditions"]}
        assert (conditions["AbleToScale"], conditions["ScalingActive"]) == ("True", "True")
    kube.run("delete", "hpa", "hpa-decode")


def test_changes_of_mode_move_no_pool(operator: OperatorProcess, kube: Kube) -> None:
    """External → Fixed goes to the written number, as asked; back to External keeps what there is."""
    kube.apply(make_manifest("modes", prefill=None, decode={"replicas": 2}, **EXTERNAL))
    wait_ready(kube, "modes", "D 2/2")
    kube.run("scale", "wpool/modes-decode", "--replicas=4")
    wait_ready(kube, "modes", "D 4/4")
    uids = {p["metadata"]["uid"] for p in kube.list("pods", "tandem.dev/fleet=modes")}
    kube.apply(make_manifest("modes", prefill=None, decode={"replicas": 4}))  # Fixed, at the size that it has
    kube.wait_condition("modes", "DecodeReady", "True", "Available")
    kube.apply(make_manifest("modes", prefill=None, decode={"replicas": 1}, **EXTERNAL))
    kube.wait_condition("modes", "DecodeReady", "True", "Available")
    assert size(kube, "modes-decode") == 4
    assert {p["metadata"]["uid"] for p in kube.list("pods", "tandem.dev/fleet=modes")} == uids


def test_another_manager_is_refused_what_is_ours_and_keeps_what_is_its_own(
    operator: OperatorProcess, kube: Kube
) -> None:
    """Server-side apply: a conflict without force; with force it is put back; what we do not render stays."""
    kube.apply(make_manifest("shared", prefill=None, decode={"replicas": 1}))
    wait_ready(kube, "shared", "D 1/1")
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "shared-decode", "annotations": {"team": "theirs"}},
        "spec": {"maxUnavailable": 3},
    }
    arguments = ("apply", "--server-side", "--field-manager=theirs", "-n", kube.namespace, "-f", "-")
    with pytest.raises(ClusterError, match="conflict"):
        kube.cluster.kubectl(*arguments, stdin=json.dumps(budget))
    kube.cluster.kubectl(*arguments, "--force-conflicts", stdin=json.dumps(budget))
    wait_until(lambda: kube.get("pdb", "shared-decode")["spec"]["maxUnavailable"] == 1, 15)
    live = kube.get("pdb", "shared-decode")
    assert live["metadata"]["annotations"]["team"] == "theirs"
    time.sleep(2)
    assert kube.get("pdb", "shared-decode")["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]
