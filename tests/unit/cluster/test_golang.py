"""The right Go is found, and what it prints is understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.families import FAMILIES
from cluster.go_output import BuildCounts
from cluster.golang import REQUIREMENT, find_toolchain, parse_go_version, read_needed_version
from cluster.places import Places


def put_go(folder: Path, version: str) -> None:
    folder.mkdir()
    (folder / "go").write_text(f"#!/bin/sh\necho go version {version} linux/amd64\n")
    (folder / "go").chmod(0o755)


@pytest.mark.parametrize("version", ["go1.26.0", "go1.26.8", "go1.27", "go2.0.1"])
def test_a_new_enough_go_on_the_path_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Whoever has Go downloads no other."""
    put_go(tmp_path / "bin", version)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    toolchain = find_toolchain(Places(tmp_path))
    assert toolchain.executable == tmp_path / "bin" / "go"
    assert toolchain.identity == f"{version} linux/amd64"


@pytest.mark.parametrize("version", ["go1.25.9", "go1.4", "devel"])
def test_an_old_go_on_the_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """The packaged one stands in, at the version of its hash-locked requirement."""
    put_go(tmp_path / "bin", version)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    toolchain = find_toolchain(Places(tmp_path))
    assert toolchain.executable.is_relative_to(tmp_path / "cluster" / "go-1.26.6")
    assert not toolchain.is_installed()


def test_a_go_that_does_not_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is no reason to stop."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "go").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "go").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "packaged" in find_toolchain(Places(tmp_path)).identity


def test_the_packaged_go_can_build_every_family() -> None:
    """The locked version is not older than the highest go line of all pins."""
    needed = read_needed_version([(family.folder / "go.mod").read_text() for family in FAMILIES.values()])
    assert parse_go_version(REQUIREMENT.read_text()) >= needed > (1, 25)


def test_the_highest_go_line_counts() -> None:
    """Modules of one build may ask for different versions; patch releases count too."""
    assert read_needed_version(["module a\n\ngo 1.26.0\n", "module b\n\ngo 1.26.6\n", "module c\n"]) == (1, 26, 6)


def test_progress_counts_downloads_and_compiled_packages() -> None:
    """Only package names count as compiled, not warnings."""
    counts = BuildCounts(packages=2)
    assert counts.describe(10) == "checking what is cached"
    counts.observe("go: downloading k8s.io/api v0.37.1")
    assert counts.describe(10) == "1 modules downloaded"
    for line in ("k8s.io/api/core/v1", "# k8s.io/api/core/v1", "./a.go:1:2: unused variable", "internal/cpu"):
        counts.observe(line)
    assert counts.describe(10) == (
        "2 of at most 2 packages compiled, about 10 s on two idle cores when nothing is cached"
    )
