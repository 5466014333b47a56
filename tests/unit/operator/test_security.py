"""What a writer of custom resources can never get."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from golden.operator.test_manifests import SCENARIOS, render

from tandem_operator.rbac import ACCESS, Scope, build_rules

RESTRICTED_VOLUMES = {"emptyDir", "secret", "persistentVolumeClaim", "image"}


def pods(scenario: str) -> list[dict[str, Any]]:
    documents = yaml.safe_load_all(render(SCENARIOS[scenario]))
    templates = []
    for document in documents:
        if document["kind"] == "Deployment":
            templates.append(document["spec"]["template"])
        if document["kind"] == "LeaderWorkerSet":
            group = document["spec"]["leaderWorkerTemplate"]
            templates += [group["leaderTemplate"], group["workerTemplate"]]
    return [template["spec"] for template in templates]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_pod_passes_pod_security_restricted(scenario: str) -> None:
    for pod in pods(scenario):
        assert pod["automountServiceAccountToken"] is False
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all(set(volume) - {"name"} <= RESTRICTED_VOLUMES for volume in pod["volumes"])
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_string_of_a_user_reaches_a_command(scenario: str) -> None:
    for pod in pods(scenario):
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert container["command"][:2] in (["python3", "-m"], ["aws", "s3"])
            assert "args" not in container


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_workers_are_told_their_orders_as_canonical_json(scenario: str) -> None:
    for pod in pods(scenario):
        text = next(e["value"] for e in pod["containers"][0]["env"] if e["name"] == "TANDEM_WORKER")
        assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_network_policies_let_in_routers_and_peers_alone(scenario: str) -> None:
    documents = yaml.safe_load_all(render(SCENARIOS[scenario]))
    (policy,) = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule.get("from") for rule in policy["ingress"])
    open_ports = {p.get("port") for rule in policy["egress"] if "to" not in rule for p in rule["ports"]}
    assert open_ports == ({53, 443} if scenario in ("disaggregated", "optimised") else {53})


def test_the_rights_have_no_wildcard_and_never_list_secrets() -> None:
    for scope in Scope:
        for rule in build_rules(scope):
            assert "*" not in (*rule["verbs"], *rule["resources"], *rule["apiGroups"])
    secrets = [access for access in ACCESS if access.kind.plural == "secrets"]
    assert secrets
    assert not any({"list", "watch", "delete"} & set(access.verbs) for access in secrets)
    assert not any(access.kind.group == "rbac.authorization.k8s.io" for access in ACCESS)
