"""`tandem explain --live` on a real API server: it reads, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from integration.operator.conftest import Kube, make_manifest

from tandem_cli.app import main

pytestmark = pytest.mark.integration


def test_a_live_cluster_is_read_and_never_written(
    tandem_kube: Kube, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = make_manifest("explained")
    tandem_kube.apply(manifest)
    stored = tandem_kube.get("infd", "explained")["metadata"]["resourceVersion"]
    path = tmp_path / "cr.yaml"
    path.write_text(yaml.safe_dump(manifest | {"spec": manifest["spec"] | {"decode": {"replicas": 5}}}))
    arguments = ["-n", tandem_kube.namespace, "--kubeconfig", str(tandem_kube.cluster.kubeconfig)]
    code = main(["explain", "-f", str(path), "--live", *arguments])
    said = capsys.readouterr()
    out = said.out
    assert code == 0, said.err
    assert "generation 2" in out
    assert "create WorkerPool explained-decode: the decode pool does not exist" in out
    assert tandem_kube.list("wpool,deploy,svc,pdb,netpol,secret,controllerrevision") == []
    assert tandem_kube.get("infd", "explained")["metadata"]["resourceVersion"] == stored
    tandem_kube.run("delete", "infd", "explained", "--wait=false")
