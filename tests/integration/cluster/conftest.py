"""A cache of its own for tests that make and break clusters, sharing only the built programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.api import default_places, down, list_clusters
from cluster.places import Places


@pytest.fixture
def places(cluster_programs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """Run folders below ``tmp_path``; whatever a test leaves is removed."""
    built = default_places().binaries
    own = Places(tmp_path / "cache")
    own.cache.mkdir()
    own.binaries.symlink_to(built)
    monkeypatch.setenv("TANDEM_CACHE", str(own.cache))
    yield own
    for listing in list_clusters(own):
        down(listing.cluster.name, places=own)
