"""One fleet on a real API server: what appears, what stays untouched, what is repaired, what goes."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from integration.operator.conftest import Installation, Kube, OperatorProcess, make_manifest, wait_until

from tandem_core.keys import RootKeys, decode_key
from tandem_operator.resources.keys_secret import derive_fleet_keys

pytestmark = pytest.mark.integration

KINDS = "wpool,deploy,svc,pdb,netpol,secret"


@pytest.fixture(scope="module")
def operator(installation: Installation) -> Iterator[OperatorProcess]:
    """A leading replica for the whole module."""
    with installation.replica() as process:
        yield process


def wait_pools(kube: Kube, fleet: str, text: str) -> None:
    """Waits until the printed counts are as given."""
    wait_until(lambda: kube.get("infd", fleet).get("status", {}).get("readyText") == text, 30)


def versions(kube: Kube) -> dict[str, str]:
    """resourceVersion of everything that the operator may write."""
    return {
        f"{obj['kind']}/{obj['metadata']['name']}": obj["metadata"]["resourceVersion"]
        for obj in kube.list(f"infd,{KINDS},events")
        if obj["kind"] != "Event" or obj["source"].get("component") == "tandem-operator"
    }


def test_a_fleet_gets_all_its_children_and_its_workers_become_ready(kube: Kube, operator: OperatorProcess) -> None:
    kube.apply(make_manifest("full"))
    wait_pools(kube, "full", "P 1/1 D 2/2")
    names = {f"{obj['kind']}/{obj['metadata']['name'].rsplit('-', 1)[0]}" for obj in kube.list("deploy")}
    assert names == {"Deployment/full-prefill", "Deployment/full-decode"}
    found = {f"{obj['kind']}/{obj['metadata']['name']}" for obj in kube.list("wpool,svc,pdb,netpol,secret")}
    per_role = {
        f"{kind}/full-{role}"
        for kind in ("WorkerPool", "Service", "PodDisruptionBudget")
        for role in ("prefill", "decode")
    }
    assert per_role | {"NetworkPolicy/full-workers", "Secret/full-keys"} <= found
    assert operator.rss_mib() < 120


def test_the_pools_conditions_and_the_scale_are_reported(kube: Kube, operator: OperatorProcess) -> None:
    assert kube.condition("full", "PrefillReady")["status"] == "True"
    assert kube.condition("full", "DecodeReady")["status"] == "True"
    assert kube.condition("full", "RouterReady")["reason"] == "RouterUnreachable"
    pool = kube.get("wpool", "full-decode")
    assert pool["status"]["replicas"] == pool["status"]["readyReplicas"] == 2
    selected = kube.list("pods", pool["status"]["selector"])
    assert len(selected) == 2


def test_the_keys_come_from_the_root_secret(installation: Installation, kube: Kube, operator: OperatorProcess) -> None:
    root = Kube(installation.cluster, installation.home).get("secret", "tandem-root")
    roots = RootKeys(decode_key(base64.b64decode(root["data"]["root.key"]).decode()))
    held = {name: base64.b64decode(text).decode() for name, text in kube.get("secret", "full-keys")["data"].items()}
    assert held == derive_fleet_keys(roots, kube.get("infd", "full")["metadata"]["uid"]).files
    assert not any(text in operator.log.read_text() for text in held.values() if text)


def test_a_fleet_at_rest_is_left_alone(kube: Kube, operator: OperatorProcess) -> None:
    time.sleep(1)
    before, written = versions(kube), operator.writes()
    time.sleep(6)
    assert versions(kube) == before
    assert operator.writes() == written


def test_a_restart_writes_nothing(installation: Installation, kube: Kube, operator: OperatorProcess) -> None:
    before = versions(kube)
    operator.stop()
    try:
        with installation.replica() as second:
            time.sleep(3)
            assert second.writes() == 0
            assert second.metrics()['tandem_operator_reconcile_seconds_count{outcome="ok"}'] >= 1
    finally:
        operator.start()
        wait_until(operator.is_leading, 25)
    assert versions(kube) == before


@pytest.mark.parametrize(
    ("kind", "patch", "path"),
    [
        ("svc/full-decode", {"spec": {"ports": [{"name": "http", "port": 9999}]}}, ("spec", "ports", 0, "port")),
        ("pdb/full-decode", {"spec": {"maxUnavailable": 2}}, ("spec", "maxUnavailable")),
        ("netpol/full-workers", {"spec": {"egress": []}}, ("spec", "egress", 0, "ports", 0, "port")),
    ],
)
def test_drift_of_a_child_is_repaired(
    kube: Kube, operator: OperatorProcess, kind: str, patch: dict[str, Any], path: tuple[str | int, ...]
) -> None:
    def value() -> Any:
        found: Any = kube.get(*kind.split("/"))
        for step in path:
            found = found[step]
        return found

    before = value()
    kube.run("patch", kind, "--type=merge", "-p", json.dumps(patch))
    wait_until(lambda: _equals(value, before), 10)


def _equals(read: Any, wanted: Any) -> bool:
    try:
        return bool(read() == wanted)
    except (KeyError, IndexError):
        return False


def test_a_drifted_pod_template_is_repaired(kube: Kube, operator: OperatorProcess) -> None:
    (deployment,) = kube.list("deploy", "tandem.dev/fleet=full,tandem.dev/pool=prefill")
    name = deployment["metadata"]["name"]
    kube.run("set", "image", f"deploy/{name}", "worker=someone.else/image:1")
    want = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    wait_until(lambda: kube.get("deploy", name)["spec"]["template"]["spec"]["containers"][0]["image"] == want, 10)


@pytest.mark.parametrize("kind", ["svc", "pdb", "netpol", "deploy", "wpool"])
def test_a_deleted_child_comes_back(kube: Kube, operator: OperatorProcess, kind: str) -> None:
    victim = kube.list(kind, "tandem.dev/fleet=full")[0]["metadata"]
    kube.run("delete", kind, victim["name"], "--wait=false")

    def is_back() -> bool:
        found = {o["metadata"]["name"]: o["metadata"]["uid"] for o in kube.list(kind, "tandem.dev/fleet=full")}
        return found.get(victim["name"]) not in (None, victim["uid"])

    wait_until(is_back, 15)
    wait_pools(kube, "full", "P 1/1 D 2/2")


def test_fixed_reverts_a_foreign_scale_and_follows_the_spec(kube: Kube, operator: OperatorProcess) -> None:
    kube.run("scale", "wpool/full-decode", "--replicas=4")
    wait_until(lambda: kube.get("wpool", "full-decode")["spec"]["replicas"] == 2, 10)
    kube.apply(make_manifest("full", decode={"replicas": 3}))
    wait_pools(kube, "full", "P 1/1 D 3/3")


def test_external_follows_whoever_scales_and_never_jumps(kube: Kube, operator: OperatorProcess) -> None:
    kube.apply(make_manifest("full", decode={"replicas": 3}, autoscaling={"mode": "External"}))
    kube.run("scale", "wpool/full-decode", "--replicas=5")
    wait_pools(kube, "full", "P 1/1 D 5/5")
    kube.apply(make_manifest("full", decode={"replicas": 1}, autoscaling={"mode": "External"}))
    kube.wait_condition("full", "DecodeReady", "True", "Available")
    assert kube.get("wpool", "full-decode")["spec"]["replicas"] == 5
    managers = kube.run("get", "wpool", "full-decode", "-o", "json", "--show-managed-fields")
    owners = {
        entry["manager"]
        for entry in json.loads(managers)["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    }
    assert "tandem-operator" not in owners


def test_zero_workers_by_policy_is_said(kube: Kube, operator: OperatorProcess) -> None:
    kube.apply(make_manifest("full", prefill={"replicas": 0}, decode={"replicas": 0}))
    wait_pools(kube, "full", "P 0/0 D 0/0")
    kube.wait_condition("full", "DecodeReady", "True", "ScaledToZero")


def test_deletion_takes_everything_along(kube: Kube, operator: OperatorProcess) -> None:
    kube.run("delete", "infd", "full", "--wait=false")
    wait_until(lambda: not kube.list(f"{KINDS},pods", "tandem.dev/fleet=full"), 20)


def test_the_probe_answers_and_the_log_holds_no_error(operator: OperatorProcess) -> None:
    assert "ok" in operator.healthz()
    lines = [json.loads(line) for line in operator.log.read_text().splitlines()]
    # kopf reports an API server whose storage is still starting as an error, and tries again; ours must have none.
    ours = [line for line in lines if line["logger"].startswith("tandem_operator")]
    assert ours
    assert [line for line in ours if line["level"] == "error"] == []
