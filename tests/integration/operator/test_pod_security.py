"""The pods of generated fleets before a real API server that admits nothing but Pod Security `restricted`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from integration.operator.conftest import Kube
from property.operator.specs import specs
from property.operator.test_pods import render, render_valid

from cluster.client import connect
from cluster.errors import ClusterError
from cluster.namespaces import temporary_namespace

pytestmark = pytest.mark.integration

CreatePod = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def create_pod(tandem_kube: Kube) -> Iterator[CreatePod]:
    """Creates a pod without storing it, in a namespace that enforces `restricted`."""
    cluster = tandem_kube.cluster
    with (
        temporary_namespace(cluster) as namespace,
        connect(cluster.kubeconfig, cluster.run.keys / "ca.crt") as client,
    ):
        cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All&fieldValidation=Strict"

        def create(spec: dict[str, Any]) -> None:
            client.create(path, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worker"}, "spec": spec})

        yield create


def without_classes(pod: dict[str, Any]) -> dict[str, Any]:
    """Without what would have to exist in the cluster first."""
    return {name: value for name, value in pod.items() if name not in ("priorityClassName", "runtimeClassName")}


@given(specs)
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_every_pod_is_valid_and_restricted(create_pod: CreatePod, spec: dict[str, Any]) -> None:
    for template in render_valid(spec)[1]:
        create_pod(without_classes(template["spec"]))


def test_a_pod_that_is_not_restricted_is_refused_here(create_pod: CreatePod) -> None:
    """So that the test above can fail."""
    _, (template,) = render({"model": {"name": "org/model"}, "decode": {}})
    create_pod(template["spec"])
    with pytest.raises(ClusterError, match="violates PodSecurity"):
        create_pod(template["spec"] | {"hostNetwork": True})
