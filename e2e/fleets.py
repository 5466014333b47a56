"""What scenarios do with fleets: make small ones of engine `sim`, wait for what their status says."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import yaml

from demo.installation import EXAMPLES, Installation
from demo.milestones import condition_of, is_ready
from tandem_api import labels

POLL_S = 0.2
SIM = yaml.safe_load((EXAMPLES / "sim.yaml").read_text())


def build_sim_fleet(name: str, **spec: Any) -> dict[str, Any]:
    """The manifest of `examples/sim.yaml` under another name, with spec fields replaced, or left out (None)."""
    manifest = copy.deepcopy(SIM)
    manifest["metadata"]["name"] = name
    manifest["spec"]["model"]["servedName"] = name
    manifest["spec"].update(spec)
    manifest["spec"] = {key: value for key, value in manifest["spec"].items() if value is not None}
    return dict(manifest)


def load_example(path: Path) -> dict[str, Any]:
    """The one manifest of an example, to be changed."""
    return dict(yaml.safe_load(path.read_text()))


class Fleets:
    """The fleets of one scenario."""

    def __init__(self, tandem: Installation) -> None:
        self._objects = tandem.objects
        self._names: list[str] = []

    def apply(self, manifest: dict[str, Any]) -> str:
        """Apply one; returns its name. Raises DemoError with the server's words."""
        name = self._objects.apply_manifest(manifest)
        if name not in self._names:
            self._names.append(name)
        return name

    def fetch(self, name: str) -> dict[str, Any]:
        """The object as the server has it."""
        return self._objects.fetch_fleet(name)

    def wait_ready(self, name: str, timeout_s: float = 120.0) -> dict[str, Any]:
        """Until `Ready` holds for the newest generation; fails with what the conditions say."""
        return self._wait(name, is_ready, timeout_s)

    def wait_condition(self, name: str, kind: str, reason: str, timeout_s: float = 120.0) -> dict[str, Any]:
        """Until a condition has a reason; returns the condition."""
        fleet = self._wait(name, lambda fleet: condition_of(fleet, kind).get("reason") == reason, timeout_s)
        return condition_of(fleet, kind)

    def wait_rollout(self, name: str, phase: str, timeout_s: float = 300.0) -> dict[str, Any]:
        """Until `status.rollout.phase` of the newest generation is this."""
        return self._wait(name, lambda fleet: _phase(fleet) == phase, timeout_s)

    def all_pods(self, name: str) -> list[Any]:
        """Pods of a fleet, those on their way out included."""
        return self._objects.fetch_all_pods(f"{labels.FLEET}={name}")

    def pods(self, name: str, role: str | None = None) -> list[Any]:
        """Pods of a fleet that are not on their way out."""
        selector = f"{labels.FLEET}={name}" + (f",{labels.ROLE}={role}" if role else "")
        return self._objects.fetch_pods(selector)

    def wait_pods(self, name: str, role: str, count: int, timeout_s: float = 60.0) -> list[Any]:
        """Until a role has exactly so many pods."""
        deadline = time.monotonic() + timeout_s
        while len(pods := self.pods(name, role)) != count:
            assert time.monotonic() < deadline, f"{name} {role}: {len(pods)} pods, want {count}"
            time.sleep(POLL_S)
        return pods

    def delete_all(self) -> None:
        """Delete what was applied, and wait until its pods are gone."""
        for name in self._names:
            self._objects.delete_fleet(name)
        for name in self._names:
            self.wait_gone(name)

    def wait_gone(self, name: str, timeout_s: float = 60.0) -> None:
        """Until no pod of the fleet is left, those on their way out included."""
        deadline = time.monotonic() + timeout_s
        while left := self._objects.fetch_all_pods(f"{labels.FLEET}={name}"):
            assert time.monotonic() < deadline, f"still there: {[pod.metadata.name for pod in left]}"
            time.sleep(POLL_S)

    def _wait(self, name: str, is_met: Any, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while not is_met(fleet := self.fetch(name)):
            conditions = fleet.get("status", {}).get("conditions", [])
            said = [f"{c['type']}={c['status']}/{c['reason']}: {c['message']}" for c in conditions]
            assert time.monotonic() < deadline, f"{name} did not get there: {said}"
            time.sleep(POLL_S)
        return fleet


def _phase(fleet: dict[str, Any]) -> str | None:
    status = fleet.get("status") or {}
    if status.get("observedGeneration") != fleet["metadata"]["generation"]:
        return None
    phase: str | None = (status.get("rollout") or {}).get("phase")
    return phase
