"""The provider ``existing`` on a real API server."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.api import Cluster, down, up
from cluster.errors import ClusterError
from cluster.places import Places
from cluster.spec import ClusterSpec

pytestmark = pytest.mark.integration


def test_a_running_cluster_is_adopted_through_its_kubeconfig(light_cluster: Cluster, places: Places) -> None:
    """The same scenarios run on it, and down forgets it without touching it."""
    spec = ClusterSpec(name="adopted", provider="existing", kubeconfig=light_cluster.kubeconfig)
    adopted = up(spec, places=places)
    assert adopted.kubectl("get", "nodes", "-o", "name") == light_cluster.kubectl("get", "nodes", "-o", "name")
    assert "STATUS" in adopted.helm("list")
    assert down("adopted", places=places)
    assert light_cluster.kubectl("get", "--raw=/readyz") == "ok"


def test_a_kubeconfig_of_a_cluster_that_is_gone_is_refused(places: Places, tmp_path: Path) -> None:
    """A real call tells, not the file."""
    gone = up(ClusterSpec(name="gone"), places=places)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(gone.kubeconfig.read_text())
    down("gone", places=places)
    with pytest.raises(ClusterError, match=r"the cluster does not answer: .*set KUBECONFIG"):
        up(ClusterSpec(name="adopted", provider="existing", kubeconfig=kubeconfig), places=places)
