"""Real clusters for integration tests: one control plane per test session, a namespace per module.

Tests skip for one reason only, that the cluster's programs are not built; ``TANDEM_REQUIRE_CLUSTER=1``
(set by ``make test``) turns that skip into a failure.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.api import Cluster, default_places, down_abandoned, ephemeral_cluster
from cluster.build import find_builder, find_missing
from cluster.families import ALL
from cluster.namespaces import temporary_namespace
from cluster.spec import ClusterSpec


@pytest.fixture(scope="session")
def cluster_programs() -> None:
    """Skips, or fails where clusters are required, unless all programs are built; removes abandoned clusters."""
    if missing := find_missing(find_builder(default_places()), ALL):
        reason = f"{', '.join(missing)} not built: run 'python -m cluster build'"
        if os.environ.get("TANDEM_REQUIRE_CLUSTER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    down_abandoned()


@pytest.fixture(scope="session")
def light_cluster(cluster_programs: None) -> Iterator[Cluster]:
    """A real control plane with three KWOK nodes, which pretend to run pods."""
    spec = ClusterSpec(name=f"test-light-{os.getpid()}", kwok_nodes=3, audit_log=True)
    with ephemeral_cluster(spec) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def process_cluster(cluster_programs: None) -> Iterator[Cluster]:
    """A real control plane with one process node; the image ``tandem.test/python`` is this very environment."""
    images = {"tandem.test/python": Path(sys.prefix)}
    spec = ClusterSpec(name=f"test-process-{os.getpid()}", process_nodes=1, images=images)
    with ephemeral_cluster(spec) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def light_namespace(light_cluster: Cluster) -> Iterator[str]:
    """A fresh namespace of the light cluster for one test module."""
    with temporary_namespace(light_cluster) as name:
        yield name


@pytest.fixture(scope="module")
def process_namespace(process_cluster: Cluster) -> Iterator[str]:
    """A fresh namespace of the process cluster for one test module."""
    with temporary_namespace(process_cluster) as name:
        yield name
