"""The light control plane behaves as Kubernetes does where Tandem relies on it."""

from __future__ import annotations

import json

import pytest

from cluster.api import Cluster
from cluster.errors import ClusterError

pytestmark = pytest.mark.integration

RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
WIDGETS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.cluster.test}
spec:
  group: cluster.test
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            x-kubernetes-validations: [{rule: "self.replicas != 13", message: "replicas: 13 is unlucky, take 12"}]
            properties: {replicas: {type: integer, minimum: 0}}
          status: {type: object, properties: {replicas: {type: integer}}}
"""


def widget(name: str, replicas: int) -> str:
    return json.dumps(
        {
            "apiVersion": "cluster.test/v1",
            "kind": "Widget",
            "metadata": {"name": name},
            "spec": {"replicas": replicas},
        }
    )


@pytest.fixture(scope="module")
def widgets(light_cluster: Cluster, light_namespace: str) -> str:
    light_cluster.kubectl("apply", "--server-side", "-f", "-", stdin=WIDGETS)
    light_cluster.kubectl("wait", "--for=condition=Established", "crd/widgets.cluster.test")
    return light_namespace


def test_a_deployment_runs_on_kwok_nodes(light_cluster: Cluster, light_namespace: str) -> None:
    """The controllers, the scheduler and KWOK work together."""
    light_cluster.kubectl("create", "deployment", "web", "--image=x", "--replicas=3", "-n", light_namespace)
    light_cluster.kubectl("rollout", "status", "deployment/web", "--timeout=30s", "-n", light_namespace)
    phases = light_cluster.kubectl(
        "get", "pods", "-l", "app=web", "-n", light_namespace, "-o", "jsonpath={.items[*].status.phase}"
    )
    assert phases.split() == ["Running"] * 3


def test_nodes_offer_gpus(light_cluster: Cluster) -> None:
    """Pods that ask for GPUs can be scheduled without any."""
    gpus = light_cluster.kubectl("get", "nodes", "-o", r"jsonpath={.items[*].status.allocatable.nvidia\.com/gpu}")
    assert gpus.split() == ["8", "8", "8"]


def test_cel_rules_refuse_with_their_message(light_cluster: Cluster, widgets: str) -> None:
    """Admission by CEL works as on any cluster."""
    with pytest.raises(ClusterError, match="13 is unlucky, take 12"):
        light_cluster.kubectl("create", "-n", widgets, "-f", "-", stdin=widget("unlucky", 13))


def test_the_scale_subresource_writes_replicas(light_cluster: Cluster, widgets: str) -> None:
    """``kubectl scale`` works on custom resources."""
    light_cluster.kubectl("create", "-n", widgets, "-f", "-", stdin=widget("scaled", 1))
    light_cluster.kubectl("scale", "widget/scaled", "--replicas=4", "-n", widgets)
    replicas = light_cluster.kubectl("get", "widget/scaled", "-n", widgets, "-o", "jsonpath={.spec.replicas}")
    assert replicas == "4"


def test_role_based_access_refuses_what_no_role_grants(light_cluster: Cluster, light_namespace: str) -> None:
    """A ServiceAccount may do what its Role says, and nothing else."""
    k, n = light_cluster.kubectl, ("-n", light_namespace)
    k("create", "serviceaccount", "bot", *n)
    k("create", "role", "reader", "--verb=list", "--resource=pods", *n)
    k("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={light_namespace}:bot", *n)
    token = k("create", "token", "bot", *n).strip()
    as_bot = ["--token", token, "--kubeconfig", str(without_credentials(light_cluster))]
    assert k("auth", "can-i", "list", "pods", *n, *as_bot).strip() == "yes"
    with pytest.raises(ClusterError, match="cannot list resource"):
        k("get", "secrets", *n, *as_bot)


def without_credentials(cluster: Cluster) -> str:
    """A kubeconfig without a user: kubectl prefers a kubeconfig's token over --token."""
    config = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json"))
    config["users"] = []
    path = cluster.run.path / "nobody.kubeconfig"
    path.write_text(json.dumps(config))
    return str(path)


def test_pod_security_restricted_is_enforced(light_cluster: Cluster, light_namespace: str) -> None:
    """The built-in Pod Security admission refuses what the profile forbids."""
    light_cluster.kubectl("label", "namespace", light_namespace, RESTRICTED, "--overwrite")
    try:
        with pytest.raises(ClusterError, match='violates PodSecurity "restricted'):
            light_cluster.kubectl("run", "bad", "--image=x", "-n", light_namespace)
    finally:
        light_cluster.kubectl("label", "namespace", light_namespace, RESTRICTED.split("=")[0] + "-")


def test_helm_installs_upgrades_and_uninstalls(
    light_cluster: Cluster, light_namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The built Helm knows the cluster's version and waits for what it installs."""
    chart = tmp_path_factory.mktemp("chart")
    (chart / "templates").mkdir()
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: probe\nversion: 0.1.0\nkubeVersion: '>=1.37.0'\n")
    (chart / "templates" / "config.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: probe}\ndata: {value: '{{ .Values.value }}'}\n"
    )
    n = ("-n", light_namespace)
    light_cluster.helm("install", "probe", str(chart), "--set=value=one", "--wait", *n)
    light_cluster.helm("upgrade", "probe", str(chart), "--set=value=two", "--wait", *n)
    assert light_cluster.kubectl("get", "cm/probe", "-o", "jsonpath={.data.value}", *n) == "two"
    light_cluster.helm("uninstall", "probe", "--wait", *n)
    with pytest.raises(ClusterError, match="not found"):
        light_cluster.kubectl("get", "cm/probe", *n)
