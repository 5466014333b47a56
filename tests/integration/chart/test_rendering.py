"""The chart, rendered by the Helm that users run, and judged by a real API server.

`TANDEM_UPDATE_GOLDEN=1` writes the reviewed renderings anew.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.api import Cluster
from cluster.errors import ClusterError

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent
CHART = Path(__file__).resolve().parents[3] / "charts" / "tandem"
REVIEWED = ("Deployment", "Service", "NetworkPolicy")  # rights are generated, and guarded elsewhere
REGION = {
    "name": "eu",
    "tokenSecret": "region-eu",
    "peers": [
        {"name": "us", "credentialsSecret": "region-us", "caSecret": "ca-us"},
        {"name": "ap", "credentialsSecret": "region-ap"},
        {"name": "behind-a-mesh"},
    ],
    "service": {"type": "LoadBalancer", "annotations": {"example.com/internal": "true"}},
    "peerCidrs": ["10.0.0.0/8", "fd00::/8"],
}
SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "router": {
            "tlsSecret": "router-tls",
            "tracing": {"otlpEndpoint": "http://collector:4318/v1/traces", "share": 0.1},
        },
        "gateway": {"tenantsSecret": "tenants"},
        "region": REGION,
        "networkPolicy": {"monitoringNamespace": "monitoring"},
    },
}


def render(cluster: Cluster, folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    text = cluster.helm("template", "tandem", str(CHART), "--namespace", "tandem", "--values", str(path))
    return [document for document in yaml.safe_load_all(text) if document]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_rendering_is_the_one_that_was_reviewed_and_the_server_takes_it(
    light_cluster: Cluster, light_namespace: str, tmp_path: Path, name: str
) -> None:
    documents = render(light_cluster, tmp_path, SCENARIOS[name])
    text = yaml.safe_dump_all([one for one in documents if one["kind"] in REVIEWED], sort_keys=False, width=120)
    path = HERE / f"{name}.yaml"
    if os.environ.get("TANDEM_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
    here = [{**one, "metadata": {**one["metadata"], "namespace": light_namespace}} for one in documents]
    flags = ("--dry-run=server", "--validate=strict", "-f", "-")
    light_cluster.kubectl("apply", *flags, stdin=yaml.safe_dump_all(here))


def test_a_region_without_networks_of_its_peers_is_refused_and_not_open_to_all(
    light_cluster: Cluster, tmp_path: Path
) -> None:
    with pytest.raises(ClusterError, match=r"region\.peerCidrs: give the networks"):
        render(light_cluster, tmp_path, {"region": {**REGION, "peerCidrs": []}})
    unguarded = {"region": {**REGION, "peerCidrs": []}, "networkPolicy": {"enabled": False}}
    assert not [one for one in render(light_cluster, tmp_path, unguarded) if one["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize(
    ("region", "field"),
    [({"name": "EU"}, "/region/name"), ({"peers": [{}]}, "/region/peers/0"), ({"peerCidrs": ["all"]}, "/region/peerC")],
)
def test_values_that_cannot_be_are_refused_by_name(
    light_cluster: Cluster, tmp_path: Path, region: dict[str, Any], field: str
) -> None:
    with pytest.raises(ClusterError, match=field):
        render(light_cluster, tmp_path, {"region": region})
