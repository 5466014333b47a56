"""Loopback subnets are shared out without overlap."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import subnets
from cluster.errors import ClusterError
from cluster.places import RunFolder
from cluster.subnets import claim_subnets, release_subnets


def make_run(folder: Path, name: str) -> RunFolder:
    (folder / name).mkdir()
    return RunFolder(folder / name)


def test_claims_never_overlap(tmp_path: Path) -> None:
    """Clusters that start at the same moment get different subnets."""
    claims = tmp_path / "claims"
    runs = [make_run(tmp_path, f"run{index}") for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        taken = [name for names in pool.map(lambda run: claim_subnets(run, 3, claims), runs) for name in names]
    assert len(set(taken)) == 24 == len(list(claims.glob("127.*")))
    assert all(name.startswith("127.") and not name.startswith("127.0.") for name in taken)


def test_released_subnets_are_used_again(tmp_path: Path) -> None:
    """Only the claims of the released run are given back."""
    claims, one, two = tmp_path / "claims", make_run(tmp_path, "one"), make_run(tmp_path, "two")
    first, second = claim_subnets(one, 1, claims), claim_subnets(two, 1, claims)
    release_subnets(one, claims)
    assert claim_subnets(two, 2, claims)[0] == first[0] != second[0]


def test_claims_of_a_run_that_is_gone_are_taken_over(tmp_path: Path) -> None:
    """A crash does not use subnets up for ever."""
    claims, one, two = tmp_path / "claims", make_run(tmp_path, "one"), make_run(tmp_path, "two")
    first = claim_subnets(one, 2, claims)
    one.path.rmdir()
    assert claim_subnets(two, 2, claims) == first


def test_running_out_of_subnets_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the folder to look into."""
    monkeypatch.setattr(subnets, "subnet_names", lambda: iter(["127.1.0", "127.1.1"]))
    with pytest.raises(ClusterError, match=f"no loopback subnet is left; remove stale claims from {tmp_path}"):
        claim_subnets(make_run(tmp_path, "one"), 3, tmp_path / "claims")


def test_no_subnets_are_claimed_for_no_nodes(tmp_path: Path) -> None:
    """A cluster without process nodes takes nothing from the others."""
    assert claim_subnets(make_run(tmp_path, "one"), 0, tmp_path / "claims") == []
    assert list((tmp_path / "claims").glob("127.*")) == []
