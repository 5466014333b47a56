"""An operator that dies before or after any of its writes: the next one ends where an undisturbed one ends."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.operator.conftest import Installation, Kube, OperatorProcess, make_manifest, wait_until
from integration.operator.crashing_operator import EXIT_CODE
from integration.operator.end_state import collect_end_state, is_settled

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

PROGRAM = Path(__file__).with_name("crashing_operator.py")
CHANGE = {"engine": {"type": "sim", "dtype": "float16"}, "decode": {"replicas": 3}}


@dataclass
class Trial:
    """Replicas of one name, one after the other, on one installation."""

    installation: Installation
    kube: Kube

    def run_until_death(self, moment: str, number: int) -> bool:
        """An operator that dies at a write. False when it came to rest before that many."""
        with self.installation.replica(wait=False) as spare:
            spare.stop()
            doomed = self._doom(spare, moment, number)
            wait_until(lambda: doomed.process.poll() is not None or self.is_settled(), 60, self.describe)
            if doomed.process.poll() is None:
                time.sleep(1)  # the last write is a status or an Event
            died = doomed.process.poll() == EXIT_CODE
            doomed.stop(9)
            return died

    def _doom(self, spare: OperatorProcess, moment: str, number: int) -> OperatorProcess:
        flags = spare.command[spare.command.index("--kubeconfig") :]
        spare.command = [sys.executable, str(PROGRAM), moment, str(number), *flags]
        spare.start()
        return spare

    def run_to_the_end(self) -> None:
        with self.installation.replica(wait=False):
            wait_until(self.is_settled, 60, self.describe)

    def is_settled(self) -> bool:
        """Whether every fleet has the workers of its present spec, and of no other."""
        fleets = self.kube.list("infd")
        return bool(fleets) and all(map(is_settled, fleets))

    def describe(self) -> str:
        return str([fleet.get("status") for fleet in self.kube.list("infd")])


@pytest.fixture(scope="module")
def trial(installation: Installation) -> Trial:
    return Trial(installation, Kube(installation.cluster, installation.namespace))


def reach_undisturbed(trial: Trial, phase: str) -> dict[str, Any]:
    """The end state of a creation, or of a rollout, that nothing disturbs."""
    fleet = f"calm-{phase}"
    with trial.installation.replica(wait=False):
        trial.kube.apply(make_manifest(fleet))
        wait_until(trial.is_settled, 60, trial.describe)
        if phase == "rollout":
            trial.kube.apply(make_manifest(fleet, **CHANGE))
            wait_until(trial.is_settled, 60, trial.describe)
    end = collect_end_state(trial.kube, fleet)
    trial.kube.run("delete", "infd", fleet, "--wait=false")
    return end


def die_and_recover(trial: Trial, fleet: str, phase: str, moment: str, number: int) -> tuple[bool, dict[str, Any]]:
    """One fleet through one phase with one death. Returns whether anybody died, and the end state."""
    trial.kube.apply(make_manifest(fleet))
    if phase == "rollout":
        trial.run_to_the_end()
        trial.kube.apply(make_manifest(fleet, **CHANGE))
    died = trial.run_until_death(moment, number)
    trial.run_to_the_end()
    end = collect_end_state(trial.kube, fleet)
    trial.kube.run("delete", "infd", fleet, "--wait=false")
    return died, end


@pytest.mark.long
def test_a_death_in_the_middle_of_a_creation_is_made_good(trial: Trial) -> None:
    undisturbed = reach_undisturbed(trial, "creation")
    died, end = die_and_recover(trial, "sample", "creation", "after", 4)
    assert died
    assert end == undisturbed


@pytest.mark.long
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("phase", ["creation", "rollout"])
def test_a_death_at_any_write_is_made_good(
    trial: Trial, capsys: pytest.CaptureFixture[str], phase: str, moment: str
) -> None:
    """For all n: until an operator comes to rest without having made n writes."""
    undisturbed = reach_undisturbed(trial, phase)
    number = 1
    while True:
        died, end = die_and_recover(trial, f"{phase[:2]}{moment[:2]}{number}", phase, moment, number)
        assert end == undisturbed, f"{moment} write {number} of a {phase}"
        if not died:
            break
        number += 1
    with capsys.disabled():
        print(f"\noperator: died {moment} each of the {number - 1} writes of a {phase}; every end state was the same")
    assert number > 5
