"""Tandem on a real cluster for the scenarios; PROVIDER chooses which (source, kind, existing)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.api import Cluster, down_abandoned, ephemeral_cluster, up
from cluster.progress import build_silent_progress
from cluster.spec import ClusterSpec
from demo import kind_images
from demo.installation import EXAMPLES, Installation, build_image_table, install
from fleets import Fleets

NAMESPACE = "tandem-e2e"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One cluster for all scenarios of a run."""
    provider = os.environ.get("PROVIDER", "source")
    if provider != "source":
        yield up(ClusterSpec(name="e2e", provider=provider))
        return
    down_abandoned()
    worker = os.environ.get("TANDEM_WORKER_PYTHON")
    images = dict(build_image_table(Path(worker) if worker else None))
    with ephemeral_cluster(ClusterSpec(name=f"e2e-{os.getpid()}", process_nodes=1, images=images)) as made:
        yield made


@pytest.fixture(scope="session")
def tandem(cluster: Cluster) -> Installation:
    """Both charts installed, operator and router ready."""
    is_kind = cluster.provider == "kind"
    if is_kind:
        kind_images.load_images(cluster, build_silent_progress())
    return install(cluster, NAMESPACE, EXAMPLES / "values-laptop.yaml", *(kind_images.HELM_FLAGS if is_kind else ()))


@pytest.fixture
def fleets(tandem: Installation) -> Iterator[Fleets]:
    """Applies fleets for one scenario; all of them are deleted when it ends."""
    made = Fleets(tandem)
    yield made
    made.delete_all()


@pytest.fixture
def router_url(tandem: Installation) -> Iterator[str]:
    """Base URL of the router."""
    with tandem.open_router() as url:
        yield url


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Scenarios that need vLLM say why they do not run without it."""
    if os.environ.get("TANDEM_WORKER_PYTHON"):
        return
    if os.environ.get("TANDEM_REQUIRE_VLLM") == "1":
        raise pytest.UsageError("TANDEM_WORKER_PYTHON is not set: run through make e2e")
    skip = pytest.mark.skip(reason="TANDEM_WORKER_PYTHON is not set: make worker-env prints it")
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(skip)
