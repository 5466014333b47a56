"""Nothing of ours holds anything back: namespaces go in any order, fleets without an operator, and all with them."""

from __future__ import annotations

import json
import time

import pytest
from integration.operator.conftest import Installation, Kube, make_installation, make_manifest, wait_until

from cluster.api import Cluster
from cluster.errors import ClusterError

pytestmark = [pytest.mark.integration, pytest.mark.long]

KINDS = "wpool,deploy,svc,pdb,netpol,secret,controllerrevisions,pods"
FINALIZED = "infd,wpool,deploy,svc,pdb,netpol,secret,controllerrevisions"


def wait_ready(kube: Kube, fleet: str, text: str = "P 1/1 D 2/2") -> None:
    wait_until(lambda: kube.get("infd", fleet).get("status", {}).get("readyText") == text, 60)


def is_gone(cluster: Cluster, namespace: str) -> bool:
    return not cluster.kubectl("get", "namespace", namespace, "--ignore-not-found", "-o", "name")


def wait_gone(cluster: Cluster, namespaces: list[str]) -> None:
    wait_until(lambda: all(is_gone(cluster, name) for name in namespaces), 120)


def test_no_object_of_ours_has_a_finalizer_or_blocks_its_owner(installation: Installation, kube: Kube) -> None:
    """But for foreground deletion, which Kubernetes adds and takes away by itself."""
    with installation.replica():
        kube.apply(make_manifest("free"))
        wait_ready(kube, "free")
        objects = [obj for obj in kube.list(FINALIZED) if "free" in obj["metadata"]["name"]]
    assert len(objects) >= 12
    for obj in objects:
        assert "finalizers" not in obj["metadata"], obj["metadata"]["name"]
        owners = obj["metadata"].get("ownerReferences", ())
        assert not any(owner.get("blockOwnerDeletion") for owner in owners)
        assert len(owners) == (obj["kind"] != "InferenceDeployment"), obj["metadata"]["name"]


def test_a_fleet_goes_without_any_operator(installation: Installation, kube: Kube) -> None:
    kube.apply(make_manifest("orphan"))
    with installation.replica():
        wait_ready(kube, "orphan")
    kube.run("delete", "infd", "orphan", "--wait=false")
    wait_until(lambda: not kube.list(KINDS, "tandem.dev/fleet=orphan"), 60)


@pytest.mark.parametrize("mode", ["foreground", "orphan"])
def test_every_way_to_delete_a_fleet_leaves_a_namespace_that_can_be_used_again(
    installation: Installation, kube: Kube, mode: str
) -> None:
    """Orphans keep running and belong to nobody; a namesake says so, and takes none of them over."""
    name = f"again-{mode}"
    with installation.replica():
        kube.apply(make_manifest(name))
        wait_ready(kube, name)
        kube.run("delete", "infd", name, f"--cascade={mode}", "--timeout=60s")
        if mode == "orphan":
            kube.apply(make_manifest(name))
            kube.wait_condition(name, "Stalled", "True", "NameTaken", 30)
            kube.run("delete", KINDS.removesuffix(",pods"), "-l", f"tandem.dev/fleet={name}")
        else:
            wait_until(lambda: not kube.list(KINDS, f"tandem.dev/fleet={name}"), 60)
            kube.apply(make_manifest(name))
        wait_until(lambda: kube.get("infd", name).get("status", {}).get("readyText") == "P 1/1 D 2/2", 90)
        kube.run("delete", "infd", name, "--wait=false")


@pytest.mark.parametrize("order", ["fleets first", "installation first", "both at once"])
def test_namespaces_go_in_any_order_while_the_operator_runs(
    tandem_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, order: str
) -> None:
    """Namespaced content is deleted in an order that nobody chooses: whatever the operator makes meanwhile goes too."""
    with make_installation(tandem_cluster, tmp_path_factory.mktemp("goes")) as installation:
        kube = Kube(tandem_cluster, installation.namespace)
        with installation.replica() as operator:
            kube.apply(make_manifest("last"))
            wait_ready(kube, "last")
            names = [installation.namespace, installation.home]
            groups = {"fleets first": [names[:1], names[1:]], "installation first": [names[1:], names[:1]]}
            for group in groups.get(order, [names]):
                tandem_cluster.kubectl("delete", "namespace", *group, "--wait=false")
                wait_gone(tandem_cluster, group)
            time.sleep(1)
            assert "reconciliation failed" not in operator.log.read_text()


def test_an_eviction_honours_the_budget_and_a_drained_node_gives_its_workers_up_one_by_one(
    installation: Installation, kube: Kube
) -> None:
    with installation.replica():
        kube.apply(make_manifest("evicted", prefill=None, decode={"replicas": 3}))
        wait_ready(kube, "evicted", "D 3/3")
        wait_until(lambda: kube.get("pdb", "evicted-decode")["status"].get("disruptionsAllowed") == 1, 30)
        pods = [pod["metadata"]["name"] for pod in kube.list("pods", "tandem.dev/fleet=evicted")]
        outcomes = [evict(kube, pod) for pod in pods]
        assert set(outcomes) == {"evicted", "429"}, outcomes
        wait_ready(kube, "evicted", "D 3/3")


def evict(kube: Kube, pod: str) -> str:
    """What the API server says to an eviction."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": kube.namespace}}
    path = f"/api/v1/namespaces/{kube.namespace}/pods/{pod}/eviction"
    try:
        kube.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))
    except ClusterError as error:
        return "429" if "disruption budget" in str(error) else str(error)
    return "evicted"
