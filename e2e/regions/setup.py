"""The installation that docs/regions.md shows, done word by word: its shell blocks are run as they stand there."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.api import Cluster
from demo.installation import ROOT

PAGE = ROOT / "docs" / "regions.md"
SECTION = "## Set up"
NAMESPACE = "tandem"
# What a small machine needs beside the page: one replica of each plane.
PREAMBLE = """
set -euo pipefail
helm() {
  if [[ "$*" == *"charts/tandem "* ]]; then command helm "$@" --values examples/values-laptop.yaml
  else command helm "$@"; fi
}
"""
KEYS = {name: f"tdm-e2e-{name}" for name in ("anywhere", "eu-only", "not-us")}
TENANTS: list[dict[str, Any]] = [
    {"name": "anywhere"},
    {"name": "eu-only", "regions": ["jurisdiction=eu"]},
    {"name": "not-us", "regions": ["eu", "ap"]},
]


class SetupError(Exception):
    """The page's commands do not work; the message holds what they said."""


def read_blocks(text: str) -> list[str]:
    """The shell blocks of the page's section."""
    section = text.split(f"\n{SECTION}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def allowed_regions(labels: Mapping[str, Mapping[str, str]]) -> dict[str, frozenset[str]]:
    """Tenant → regions that may serve it. `labels` by region."""
    return {str(tenant["name"]): _allowed(tenant.get("regions"), labels) for tenant in TENANTS}


def _allowed(entries: object, labels: Mapping[str, Mapping[str, str]]) -> frozenset[str]:
    if not isinstance(entries, list):
        return frozenset(labels)
    fits = {name for name, own in labels.items() for entry in entries if entry in (name, *map("=".join, own.items()))}
    return frozenset(fits)


def write_tenants(path: Path) -> None:
    """The tenants file, with the hashes of `KEYS`."""

    def build(tenant: Mapping[str, Any]) -> dict[str, Any]:
        digest = hashlib.sha256(KEYS[str(tenant["name"])].encode()).hexdigest()
        return {**tenant, "apiKeys": [{"id": "e2e", "hash": f"sha256:{digest}"}]}

    path.write_text(yaml.safe_dump({"tenants": [build(tenant) for tenant in TENANTS]}))


def install_regions(clusters: Mapping[str, Cluster], folder: Path) -> None:
    """Run the page's commands in `folder`, with a kubeconfig for each region.

    Raises:
        SetupError: one of them failed.
    """
    for name in ("charts", "examples"):
        (folder / name).symlink_to(ROOT / name)
    for region, cluster in clusters.items():
        (folder / f"{region}.kubeconfig").symlink_to(cluster.kubeconfig)
    write_tenants(folder / "tenants.yaml")
    script = PREAMBLE + "\n".join(read_blocks(PAGE.read_text()))
    tools = next(iter(clusters.values())).bin_dir
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SetupError(f"{PAGE.name}: exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
