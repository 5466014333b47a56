"""A fleet that was edited many times is the fleet that a fresh creation gives; on a real API server."""

from __future__ import annotations

import random
from typing import Any

import pytest
from integration.operator.conftest import Installation, Kube, make_manifest, wait_until
from integration.operator.end_state import collect_end_state, is_settled

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]

FLEETS, ROUNDS, SEED = 10, 32, 20_261_121
BAD = {"replicas": 1, "resources": {"memory": "16"}}  # admitted, and refused by the operator

Spec = dict[str, Any]


def draw_pool(chance: random.Random, role: str) -> Spec:
    """A pool of simulated engines; what is drawn changes templates, sizes, or both."""
    pool: Spec = {"replicas": chance.randint(1, 3)}
    if chance.random() < 0.4:
        pool["engineOverrides"] = {"maxModelLen": chance.choice([1024, 2048, 4096])}
    if chance.random() < 0.2:
        pool["resources"] = {"cpu": chance.choice(["100m", "200m"])}
    if chance.random() < 0.2:
        pool["podTemplate"] = {"annotations": {"example.com/note": f"{role}-{chance.randint(0, 2)}"}}
    return pool


def draw_spec(chance: random.Random) -> Spec:
    """A whole spec. Some are mixed fleets; block size and dtype change the kv-revision."""
    engine: Spec = {"type": "sim"}
    if chance.random() < 0.4:
        engine["kvCache"] = {"blockSize": chance.choice([16, 32, 64])}
    if chance.random() < 0.3:
        engine["dtype"] = chance.choice(["float16", "bfloat16"])
    return {
        "engine": engine,
        "prefill": draw_pool(chance, "prefill") if chance.random() < 0.8 else None,
        "decode": draw_pool(chance, "decode"),
        "rollout": {"strategy": chance.choice(["Surge", "Recreate"]), "maxSurge": chance.choice([1, "50%", "100%"])},
        "drain": {"timeoutSeconds": chance.choice([1, 2])},
    }


def edited(index: int) -> str:
    return f"edited-{index:02d}"


def fresh(index: int) -> str:
    return f"fresher-{index:02d}"


def wait_settled(kube: Kube, names: list[str], seed: str) -> None:
    def pending() -> list[Any]:
        fleets = {fleet["metadata"]["name"]: fleet for fleet in kube.list("infd")}
        return [fleets[name].get("status") for name in names if not is_settled(fleets[name])]

    wait_until(lambda: not pending(), 120, lambda: f"{seed}: {pending()}")


def wait_equal(kube: Kube, index: int, spec: Spec) -> None:
    """Old pools may still be on their way out when the new one serves."""
    wait_until(
        lambda: collect_end_state(kube, edited(index)) == collect_end_state(kube, fresh(index)),
        60,
        lambda: (
            f"{spec}: {_differences(collect_end_state(kube, edited(index)), collect_end_state(kube, fresh(index)))}"
        ),
    )


def _differences(one: Spec, other: Spec) -> Spec:
    return {key: (one.get(key), other.get(key)) for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def run_round(kube: Kube, specs: list[Spec], seed: str) -> None:
    """Every fleet gets its next spec, its twin is born with it, and the two must be alike."""
    kube.apply(*(make_manifest(edited(index), **spec) for index, spec in enumerate(specs)))
    kube.apply(*(make_manifest(fresh(index), **spec) for index, spec in enumerate(specs)))
    wait_settled(kube, [name(index) for index in range(len(specs)) for name in (edited, fresh)], seed)
    for index, spec in enumerate(specs):
        wait_equal(kube, index, spec)
    kube.run("delete", "infd", *(fresh(index) for index in range(len(specs))), "--cascade=foreground")


def spoil_and_restore(kube: Kube, index: int, spec: Spec) -> None:
    """A bad spec stops at its name and the good one after it finds everything as it was."""
    before = collect_end_state(kube, edited(index))
    kube.apply(make_manifest(edited(index), **(spec | {"decode": BAD})))
    kube.wait_condition(edited(index), "Stalled", "True", "InvalidSpec", 60)
    children = collect_end_state(kube, edited(index))
    assert {key: children[key] for key in before if key != "status"} == {
        k: v for k, v in before.items() if k != "status"
    }
    kube.apply(make_manifest(edited(index), **spec))
    wait_settled(kube, [edited(index)], "restored")
    wait_until(lambda: collect_end_state(kube, edited(index)) == before, 60)


def test_three_hundred_transitions_end_where_fresh_creations_end(
    installation: Installation, kube: Kube, capsys: pytest.CaptureFixture[str]
) -> None:
    """And each round one fleet goes through a bad spec and back."""
    chance = random.Random(SEED)
    with installation.replica():
        for turn in range(ROUNDS):
            specs = [draw_spec(chance) for _ in range(FLEETS)]
            run_round(kube, specs, f"seed {SEED}, round {turn}")
            spoil_and_restore(kube, turn % FLEETS, specs[turn % FLEETS])
            with capsys.disabled():
                print(f"\r{(turn + 1) * FLEETS} transitions, {turn + 1} bad specs", end="", flush=True)
