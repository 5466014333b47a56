"""The providers that do not build Kubernetes: what they run, and what they say when they cannot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.api import Cluster, down, fetch_cluster, list_clusters, up
from cluster.build import find_builder
from cluster.errors import ClusterError
from cluster.families import FAMILIES
from cluster.places import Places
from cluster.spec import ClusterSpec

KUBECTL = """#!/bin/sh
case "$*" in
  *readyz*) test -e "$TOOLS/dead" && exit 1; echo ok ;;
  *version*) test -e "$TOOLS/dead" && { echo 'connection refused' >&2; exit 1; }; echo '{"gitVersion": "v1.36.2"}' ;;
  *"config view"*) cat "$KUBECONFIG" ;;
esac
"""
KIND = """#!/bin/sh
echo "$*" >> "$TOOLS/kind-calls"
test -e "$TOOLS/kind-fails" && { echo 'no room' >&2; exit 1; }
exit 0
"""
DOCKER = """#!/bin/sh
test -e "$TOOLS/docker-down" && { echo 'Cannot connect to the Docker daemon' >&2; exit 1; }
exit 0
"""

Put = Callable[[str, str], Path]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of scripts that stand for other people's programs."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name, script in {"kubectl": KUBECTL, "helm": "#!/bin/sh\n", "kind": KIND, "docker": DOCKER}.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("TOOLS", str(folder))
    return folder


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "cache")


def up_kind(places: Places) -> Cluster:
    return up(ClusterSpec(name="k", provider="kind"), places=places)


def test_kind_creates_and_deletes_a_cluster_of_our_name(tools: Path, places: Places) -> None:
    """Nothing but our own kind cluster is touched, and the user's kubeconfig is left alone."""
    run = up_kind(places).run
    config = (run.path / "kind.yaml").read_text()
    assert down("k", places=places)
    create, delete = (tools / "kind-calls").read_text().splitlines()
    assert "name: tandem-k" in config
    assert create.startswith("create cluster")
    assert create.endswith(f"--kubeconfig={run.kubeconfig('admin')}")
    assert delete == f"delete cluster --name=tandem-k --kubeconfig={run.kubeconfig('admin')}"
    assert not run.path.exists()


def test_a_failed_kind_is_named_with_its_log_and_deleted(tools: Path, places: Places) -> None:
    """kind leaves containers behind when it fails half-way; they are removed."""
    (tools / "kind-fails").touch()
    with pytest.raises(ClusterError, match="kind could not"):
        up_kind(places)
    assert "delete cluster --name=tandem-k" in (tools / "kind-calls").read_text()


def test_kind_without_docker_says_what_to_do(tools: Path, places: Places) -> None:
    """The way out is another provider."""
    (tools / "docker").unlink()
    with pytest.raises(ClusterError, match="there is no docker command; start Docker, or choose --provider source"):
        up_kind(places)


def test_kind_with_a_silent_docker_gives_its_reason(tools: Path, places: Places) -> None:
    """The engine's own words are kept."""
    (tools / "docker-down").touch()
    with pytest.raises(ClusterError, match="does not answer: Cannot connect to the Docker daemon"):
        up_kind(places)


def test_kind_that_is_not_on_the_path_is_our_own_build(tools: Path, places: Places) -> None:
    """Nobody has to install kind: its pinned module is built, here as if that had been done before."""
    built = find_builder(places).folder(FAMILIES["kind"])
    built.mkdir(parents=True)
    (tools / "kind").rename(built / "kind")
    up_kind(places)
    assert down("k", places=places)
    assert len((tools / "kind-calls").read_text().splitlines()) == 2


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    path.write_text("current-context: mine\n")
    return path


def up_existing(places: Places, kubeconfig: Path | None) -> Cluster:
    return up(ClusterSpec(name="e", provider="existing", kubeconfig=kubeconfig), places=places)


def test_an_existing_cluster_is_used_and_never_removed(tools: Path, places: Places, kubeconfig: Path) -> None:
    """Its context is copied, so that the user may switch to another meanwhile."""
    cluster = up_existing(places, kubeconfig)
    assert cluster.kubeconfig.read_text() == "current-context: mine\n"
    assert fetch_cluster("e", places) == cluster
    assert down("e", places=places)
    assert kubeconfig.exists()
    assert not cluster.kubeconfig.exists()


def test_an_existing_cluster_that_does_not_answer_is_refused(tools: Path, places: Places, kubeconfig: Path) -> None:
    """A real call is made before anything is installed."""
    (tools / "dead").touch()
    with pytest.raises(ClusterError, match="the cluster does not answer: connection refused; set KUBECONFIG"):
        up_existing(places, kubeconfig)
    assert [listing.is_live for listing in list_clusters(places)] == [False]


def test_no_kubeconfig_is_refused(tools: Path, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable to set."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(ClusterError, match=r"there is no usable kubeconfig: .*; set KUBECONFIG"):
        up_existing(places, None)


def test_a_missing_tool_is_named(tools: Path, places: Places, kubeconfig: Path) -> None:
    """Helm may come from the PATH or from our own build."""
    (tools / "helm").unlink()
    with pytest.raises(ClusterError, match=r"helm is missing; put it on the PATH, or run .*build --only helm"):
        up_existing(places, kubeconfig)
