"""Who leaves when a pool shrinks."""

from __future__ import annotations

from typing import Any

import pytest
from unit.operator.fleets import make_fleet, make_spec
from unit.operator.world import World

from tandem_api.labels import DELETION_COST_ANNOTATION
from tandem_api.router import FleetReport, WorkerLoad
from tandem_operator.model import Mark, RouterView
from tandem_operator.plan.fleet import plan_fleet
from tandem_operator.plan.rollout import decide_rollout

BUSY = {"a": (9, 0.0), "b": (1, 500.0), "c": (1, 20.0), "d": (4, 0.0)}


def serving(names: str = "abcd", **spec: Any) -> World:
    """A fleet of four decode workers that are named by letters."""
    world = World(make_fleet(make_spec(decode={"replicas": len(names)}, **spec)))
    world.reconcile()
    world.settle()
    (deployment,) = world.deployments("decode")
    for name in names:
        tags = deployment["spec"]["template"]["metadata"]["labels"]
        metadata = {"name": name, "namespace": "team", "uid": f"pod-{name}", "labels": tags}
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        world.pods.append({"metadata": metadata, "status": ready})
    return world


def tell(world: World, *routers: dict[str, tuple[int, float]]) -> None:
    """Each router reports its loads."""
    common = {"namespace": "team", "name": "llama", "uid": "uid-fleet", "generation": 9, "served_name": "m"}
    reports = [
        FleetReport(**common, serving=True, loads=tuple(WorkerLoad(pod, *load) for pod, load in loads.items()))
        for loads in routers
    ]
    world.routers = RouterView(len(routers), len(routers), tuple(reports))


def marked(world: World) -> set[str]:
    return {
        pod["metadata"]["name"]
        for pod in world.pods
        if DELETION_COST_ANNOTATION in pod["metadata"].get("annotations", {})
    }


def test_the_idlest_go_first_then_those_with_the_least_useful_cache() -> None:
    world = serving()
    tell(world, BUSY)
    world.edit(decode={"replicas": 2})
    assert [a.name for a in plan_fleet(world.snapshot()) if isinstance(a, Mark)] == ["c", "b"]
    world.reconcile()
    assert marked(world) == {"b", "c"}
    assert world.deployments("decode")[0]["spec"]["replicas"] == 2


def test_loads_of_all_routers_count() -> None:
    world = serving()
    tell(
        world,
        {"a": (1, 0.0), "b": (1, 0.0), "c": (1, 0.0), "d": (2, 0.0)},
        {"a": (5, 0.0), "b": (5, 0.0), "c": (5, 0.0)},
    )
    world.edit(decode={"replicas": 3})
    world.reconcile()
    assert marked(world) == {"d"}


@pytest.mark.parametrize("loads", [{}, dict.fromkeys("abcd", (3, 7.0))])
def test_nothing_is_written_when_any_worker_will_do(loads: dict[str, tuple[int, float]]) -> None:
    world = serving()
    tell(world, loads)
    world.edit(decode={"replicas": 2})
    world.reconcile()
    assert marked(world) == set()
    assert world.deployments("decode")[0]["spec"]["replicas"] == 2


def test_a_fleet_at_rest_is_never_marked() -> None:
    world = serving()
    tell(world, BUSY)
    assert plan_fleet(world.snapshot()) == ()


def test_all_that_go_need_no_mark() -> None:
    world = serving()
    tell(world, BUSY)
    world.edit(decode={"replicas": 0})
    world.reconcile()
    assert marked(world) == set()


def test_marks_stay_while_loads_change_and_go_when_the_shrinking_is_called_off() -> None:
    world = serving()
    tell(world, BUSY)
    world.edit(decode={"replicas": 3})
    for action in plan_fleet(world.snapshot()):
        if isinstance(action, Mark):
            world.take(action)
    assert marked(world) == {"c"}
    tell(world, BUSY | {"c": (50, 0.0)})
    assert not [a for a in plan_fleet(world.snapshot()) if isinstance(a, Mark)]
    world.edit(decode={"replicas": 4})
    world.make_all_available()
    world.reconcile()
    assert marked(world) == set()
    assert plan_fleet(world.snapshot()) == ()


def test_marks_stay_until_kubernetes_has_taken_the_workers_away() -> None:
    world = serving()
    tell(world, BUSY)
    world.edit(decode={"replicas": 3})
    world.reconcile()  # the size is written, the pod is still there
    assert marked(world) == {"c"}
    world.pods = [pod for pod in world.pods if pod["metadata"]["name"] != "c"]
    world.settle()
    assert plan_fleet(world.snapshot()) == ()


def test_old_workers_are_marked_too_when_they_make_room_in_a_rollout() -> None:
    world = serving(rollout={"maxSurge": 1})
    tell(world, BUSY)
    world.edit(model={"name": "org/other"})
    world.reconcile()
    for name in [d["metadata"]["name"] for d in world.of("Deployment")]:
        world.make_available(name)
    assert decide_rollout(world.snapshot()).kept
    world.reconcile()
    assert marked(world) == {"c"}
