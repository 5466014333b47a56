"""Workers that span nodes on a real API server: without the kind of LeaderWorkerSet, and with it.

The definition comes from the project's own Go module; its controller does not run here, so groups never become ready.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from integration.operator.conftest import Installation, Kube, make_manifest, wait_until

from cluster.errors import ClusterError
from tandem_api.conditions import Reason

pytestmark = pytest.mark.integration

MODULE = "sigs.k8s.io/lws@v0.9.0"
WIDE = {"replicas": 2, "nodes": 2, "parallelism": {"tensor": 2}}


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CustomResourceDefinition of LeaderWorkerSet."""
    folder = tmp_path_factory.mktemp("lws")
    (folder / "go.mod").write_text("module lws\n\ngo 1.26.0\n")
    done = subprocess.run(
        ["go", "mod", "download", "-json", MODULE], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        pytest.skip(f"{MODULE} cannot be had: {done.stderr or done.stdout}")
    return Path(json.loads(done.stdout)["Dir"], "config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml")


@pytest.mark.long
def test_without_the_kind_the_fleet_says_what_to_install_and_with_it_the_group_is_born(
    installation: Installation, kube: Kube, definition: Path
) -> None:
    with installation.replica():
        kube.apply(make_manifest("wide", prefill=None, decode=WIDE))
        stalled = kube.wait_condition("wide", "Stalled", "True", Reason.LEADER_WORKER_SET_MISSING, timeout_s=60)
        assert "install its controller" in stalled["message"]
        assert kube.list("deploy") == []
        kube.cluster.kubectl("apply", "--server-side", "-f", str(definition))
        wait_until(lambda: is_served(kube), 60)
        try:
            wait_until(lambda: kube.list("leaderworkersets", "tandem.dev/fleet=wide"), 90)
            (group,) = kube.list("leaderworkersets", "tandem.dev/fleet=wide")
            assert (group["spec"]["replicas"], group["spec"]["leaderWorkerTemplate"]["size"]) == (2, 2)
            kube.wait_condition("wide", "Stalled", "False", Reason.PROGRESSING, timeout_s=60)
            kube.apply(make_manifest("wide", prefill=None, decode=WIDE | {"replicas": 3}))
            wait_until(lambda: kube.get("leaderworkersets", group["metadata"]["name"])["spec"]["replicas"] == 3, 60)
            status = {"replicas": 3, "readyReplicas": 3, "conditions": [available()]}
            kube.run(
                *("patch", "leaderworkersets", group["metadata"]["name"], "--subresource=status", "--type=merge"),
                *("-p", json.dumps({"status": status})),
            )
            kube.wait_condition("wide", "DecodeReady", "True", Reason.AVAILABLE, timeout_s=60)
        finally:
            kube.run("delete", "infd", "wide", "--wait=false")
            kube.cluster.kubectl("delete", "-f", str(definition), "--wait=false")


def is_served(kube: Kube) -> bool:
    """Whether the server knows the kind by now."""
    try:
        return "leaderworkersets" in kube.cluster.kubectl("get", "--raw", "/apis/leaderworkerset.x-k8s.io/v1")
    except ClusterError:
        return False


def available() -> dict[str, str]:
    return {
        "type": "Available",
        "status": "True",
        "reason": "AllGroupsReady",
        "message": "all ready",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
