"""InferenceRegion on a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from integration.operator.conftest import Kube

from cluster.client import connect
from cluster.errors import ClusterError
from tandem_api.labels import API_VERSION
from tandem_api.v1alpha1 import InferenceRegionSpec

pytestmark = pytest.mark.integration


def build_region(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": "InferenceRegion", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def try_region(tandem_kube: Kube) -> Iterator[Any]:
    """Creates without storing: the server runs all of its validation."""
    cluster, path = tandem_kube.cluster, f"/apis/{API_VERSION}/namespaces/{tandem_kube.namespace}/inferenceregions"
    with connect(cluster.kubeconfig, cluster.run.keys / "ca.crt") as client:
        yield lambda manifest: client.create(f"{path}?dryRun=All&fieldValidation=Strict", manifest)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"url": "https://eu.example.com"},
        {"url": "http://10.0.0.1:8443", "credentialsSecret": "region-eu"},
        {"url": "https://[fd00::1]:8443", "caSecret": "ca-eu", "labels": {"jurisdiction": "eu"}},
        {"priceWeight": 0.4, "drain": True},
    ],
    ids=str,
)
def test_what_is_right_is_admitted(try_region: Any, spec: dict[str, Any]) -> None:
    try_region(build_region("eu-west-1", **spec))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"url": "eu.example.com"}, "spec.url must be http(s)://HOST[:PORT]"),
        ({"url": "https://eu.example.com/v1"}, "without path, user or query"),
        ({"url": "https://u:p@eu.example.com"}, "without path, user or query"),
        ({"url": "https://eu.example.com\nx"}, "spec.url must be"),
        ({"url": "http://eu.example.com", "caSecret": "ca"}, "spec.caSecret verifies an https:// url"),
        ({"labels": {"k" * 64: "x"}}, "spec.labels: a name has 1 to 63 characters"),
        ({"labels": {"k": "v" * 64}}, "spec.labels.k"),
        ({"priceWeight": 0}, "spec.priceWeight"),
        ({"credentialsSecret": "../x"}, "spec.credentialsSecret"),
        ({"token": "secret"}, "unknown field"),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_with_field_and_fix(try_region: Any, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ClusterError) as refusal:
        try_region(build_region("eu", **spec))
    assert message in str(refusal.value)


def test_a_name_that_no_flag_takes_is_refused(try_region: Any) -> None:
    with pytest.raises(ClusterError, match="DNS label of at most 63 characters"):
        try_region(build_region("1eu"))


def test_kubectl_shows_url_drain_and_price(tandem_kube: Kube) -> None:
    tandem_kube.apply(build_region("eu", url="https://eu.example.com"))
    lines = tandem_kube.run("get", "infreg").splitlines()
    stored = tandem_kube.get("infreg", "eu")["spec"]
    tandem_kube.run("delete", "infreg", "eu", "--wait=false")
    assert lines[0].split() == ["NAME", "URL", "REACHABLE", "DRAINING", "PRICE", "AGE"]
    assert InferenceRegionSpec.model_validate(stored) == InferenceRegionSpec(url="https://eu.example.com")
    assert (stored["priceWeight"], stored["drain"]) == (1, False)
