"""Keys are rotated by the very commands of docs/operations.md, under load: nobody notices."""

from __future__ import annotations

import base64
import json
import subprocess

import pytest

from cluster.api import Cluster
from demo.installation import ROOT, Installation
from fleets import Fleets, build_sim_fleet
from steady_load import steady_load

pytestmark = pytest.mark.timeout(420)

CLIENTS = 4
SPREAD_S = 50  # two minutes in the manual; a process node brings new files to its pods within ten seconds


def read_commands() -> list[str]:
    """The three steps of the manual."""
    text = (ROOT / "docs" / "operations.md").read_text()
    block = text.split("**Rotation without an interruption.**")[1].split("```sh\n")[1].split("```")[0]
    steps = block.split("\n# ")
    assert len(steps) == 3, "the manual has another number of steps"
    return steps


def run_commands(cluster: Cluster, namespace: str, steps: list[str]) -> None:
    """One shell runs them, as a person would, with a pause after each."""
    script = f"\nsleep {SPREAD_S}\n# ".join(steps).replace("-n tandem ", f"-n {namespace} ") + f"\nsleep {SPREAD_S}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=cluster.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def fetch_keys(tandem: Installation, fleet: str) -> dict[str, str]:
    text = tandem.cluster.kubectl("-n", tandem.objects.namespace, "get", "secret", f"{fleet}-keys", "-o", "json")
    return {name: base64.b64decode(value).decode() for name, value in json.loads(text)["data"].items()}


def test_a_rotation_by_the_manual_fails_no_request_and_recomputes_no_prompt(
    cluster: Cluster, tandem: Installation, fleets: Fleets, router_url: str
) -> None:
    """At each moment old and new holders of keys accept one another."""
    fleets.apply(build_sim_fleet("rotates"))
    fleets.wait_ready("rotates")
    before = fetch_keys(tandem, "rotates")
    pods = {pod.metadata.uid for pod in fleets.pods("rotates")}
    with steady_load(router_url, "rotates", CLIENTS) as ledger:
        run_commands(cluster, tandem.objects.namespace, read_commands())
    print(f"\nrotation: {ledger}")
    after = fetch_keys(tandem, "rotates")
    assert ledger.failures == []
    assert len(ledger.answers) > 100
    assert ledger.remote_share() == 1.0
    assert (before["engine.previous"], after["engine.previous"], after["kv.previous"]) == ("", "", "")
    assert after["engine.key"] != before["engine.key"]
    assert {pod.metadata.uid for pod in fleets.pods("rotates")} == pods
    fleets.wait_ready("rotates", 30)


def test_a_rotation_in_a_hurry_fails_no_request(
    cluster: Cluster, tandem: Installation, fleets: Fleets, router_url: str
) -> None:
    """Without the first step pods have the new key at different times: the routers try both."""
    fleets.apply(build_sim_fleet("hurries"))
    fleets.wait_ready("hurries")
    draw, _, use = read_commands()[0].partition("\n")[2].partition("\n")
    assert use.startswith("kubectl")
    with steady_load(router_url, "hurries", CLIENTS) as ledger:
        run_commands(cluster, tandem.objects.namespace, [f"# in a hurry\n{draw}", *read_commands()[1:]])
    print(f"\nin a hurry: {ledger}")
    assert ledger.failures == []
    assert len(ledger.answers) > 100


def test_a_deleted_root_is_replaced_and_fails_no_request(
    cluster: Cluster, tandem: Installation, fleets: Fleets, router_url: str
) -> None:
    """The operator that leads still knows the old key, and keeps it accepted."""
    fleets.apply(build_sim_fleet("loses"))
    fleets.wait_ready("loses")
    before = fetch_keys(tandem, "loses")
    with steady_load(router_url, "loses", CLIENTS) as ledger:
        run_commands(cluster, tandem.objects.namespace, ["# delete\nkubectl -n tandem delete secret tandem-root"])
    after = fetch_keys(tandem, "loses")
    assert ledger.failures == []
    assert after["engine.key"] != before["engine.key"] == after["engine.previous"]
