"""Namespaces for tests: cheaper than clusters."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.api import Cluster


@contextmanager
def temporary_namespace(cluster: Cluster, prefix: str = "test") -> Iterator[str]:
    """Create a namespace whose ServiceAccount exists; its deletion, which takes 5 s, is not waited for."""
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    # Pods are refused until the controller manager has made it.
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=30s")
    try:
        yield name
    finally:
        cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
