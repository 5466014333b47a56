"""Scale-ins and rollouts under load: every request is in the ledger with its outcome, and none is lost."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from demo.installation import EXAMPLES, Installation
from demo.milestones import condition_of
from fleets import Fleets, build_sim_fleet, load_example
from steady_load import Ledger, steady_load
from tandem_api.labels import DELETION_COST_ANNOTATION

pytestmark = pytest.mark.timeout(3600)

CLIENTS, TOKENS = 6, 120
ROLLOUT = {"maxSurge": "50%"}
BLOCK_SIZES = (16, 32, 64)


def watch_marks(fleets: Fleets, name: str) -> int:
    """Pods of a fleet that are marked to go first, those on their way out included."""
    pods = fleets.all_pods(name)
    return sum(DELETION_COST_ANNOTATION in (pod.metadata.annotations or {}) for pod in pods)


def scale_in_and_out(tandem: Installation, fleets: Fleets, name: str, role: str) -> int:
    """One worker less, then one more again. Returns how many were seen marked."""
    tandem.objects.patch_spec(name, {role: {"replicas": 2}})
    fleets.wait_pods(name, role, 2, timeout_s=300)
    marks = watch_marks(fleets, name)
    tandem.objects.patch_spec(name, {role: {"replicas": 3}})
    fleets.wait_ready(name, timeout_s=300)
    return marks


def roll(tandem: Installation, fleets: Fleets, name: str, turn: int) -> None:
    """Every third change is of KV, the others of one role each."""
    changes: tuple[dict[str, Any], ...] = (
        {"engine": {"kvCache": {"blockSize": BLOCK_SIZES[turn // 3 % 3]}}},
        {"decode": {"engineOverrides": {"maxModelLen": 32_768 + turn}}},
        {"prefill": {"engineOverrides": {"maxModelLen": 32_768 + turn}}},
    )
    tandem.objects.patch_spec(name, changes[turn % 3])
    fleets.wait_ready(name, timeout_s=300)


def tell(done: str, ledger: Ledger) -> None:
    """Progress, for who watches with `-s`."""
    print(f"  {done}: {ledger}", *ledger.failures[-1:], flush=True)


def run_changes(tandem: Installation, fleets: Fleets, router_url: str, scale_ins: int, rollouts: int) -> Ledger:
    """The changes, one after the other, while clients stream."""
    name, pool = "drains", {"replicas": 3}
    fleets.apply(build_sim_fleet(name, prefill=pool, decode=pool, rollout=ROLLOUT))
    fleets.wait_ready(name)
    began, marks = time.monotonic(), 0
    with steady_load(router_url, name, CLIENTS, TOKENS) as ledger:
        for turn in range(scale_ins):
            marks += scale_in_and_out(tandem, fleets, name, ("decode", "prefill")[turn % 4 == 3])
            tell(f"{turn + 1} scale-ins", ledger)
        for turn in range(rollouts):
            roll(tandem, fleets, name, turn)
            tell(f"{turn + 1} rollouts", ledger)
    took_s = time.monotonic() - began
    print(f"\n{scale_ins} scale-ins, {rollouts} rollouts in {took_s:.0f} s: {ledger}; {marks} workers were marked")
    return ledger


def test_a_few_scale_ins_and_a_rollout_lose_no_stream(tandem: Installation, fleets: Fleets, router_url: str) -> None:
    """Every stream is answered in full, by the worker that has to go or by another."""
    ledger = run_changes(tandem, fleets, router_url, scale_ins=5, rollouts=1)
    assert ledger.failures == []
    assert len(ledger.answers) >= 5 * CLIENTS


@pytest.mark.long
def test_a_hundred_scale_ins_and_ten_rollouts_lose_no_stream(
    tandem: Installation, fleets: Fleets, router_url: str
) -> None:
    """`TANDEM_SCALE_INS` and `TANDEM_ROLLOUTS` say how many."""
    scale_ins, rollouts = int(os.environ.get("TANDEM_SCALE_INS", "100")), int(os.environ.get("TANDEM_ROLLOUTS", "10"))
    ledger = run_changes(tandem, fleets, router_url, scale_ins, rollouts)
    assert ledger.failures == []
    assert len(ledger.answers) >= scale_ins


def test_a_rollout_in_steps_goes_on_when_the_new_workers_are_as_good(
    tandem: Installation, fleets: Fleets, router_url: str
) -> None:
    """Traffic, requests counted by template in the routers, the gate in the operator: all for real."""
    steps = {"steps": [{"traffic": "34%", "hold": "5s"}], "minRequests": 5}
    fleets.apply(build_sim_fleet("steps", prefill={"replicas": 2}, decode={"replicas": 2}, rollout=steps))
    fleets.wait_ready("steps")
    with steady_load(router_url, "steps", CLIENTS, 20) as ledger:
        tandem.objects.patch_spec("steps", {"engine": {"kvCache": {"blockSize": 64}}})
        fleets.wait_rollout("steps", "Holding")
        fleets.wait_rollout("steps", "Complete")
    assert ledger.failures == []


@pytest.mark.vllm
@pytest.mark.long
def test_real_workers_lose_no_stream_either(tandem: Installation, fleets: Fleets, router_url: str) -> None:
    """vLLM on CPU: one scale-in, and one rollout of both roles."""
    manifest = load_example(EXAMPLES / "quickstart.yaml")
    manifest["metadata"]["name"] = manifest["spec"]["model"]["servedName"] = "real"
    manifest["spec"]["decode"]["replicas"] = 2
    fleets.apply(manifest)
    fleets.wait_ready("real", timeout_s=1200)
    with steady_load(router_url, "real", 2, 16) as ledger:
        tandem.objects.patch_spec("real", {"decode": {"replicas": 1}})
        fleets.wait_pods("real", "decode", 1, timeout_s=300)
        tandem.objects.patch_spec("real", {"decode": {"engineOverrides": {"batching": {"maxNumSeqs": 8}}}})
        fleets.wait_ready("real", timeout_s=1200)
    print(f"\nreal workers: {ledger}")
    assert ledger.failures == []
    assert condition_of(fleets.fetch("real"), "DisaggregationEffective")["status"] == "True"
