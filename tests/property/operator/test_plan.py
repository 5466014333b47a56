"""What holds for every history of a fleet."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from unit.operator.fleets import make_fleet, make_spec
from unit.operator.world import World

from tandem_api import labels
from tandem_operator.kinds import POD, Manifest
from tandem_operator.model import Action, Delete
from tandem_operator.plan.fleet import plan_fleet
from tandem_operator.plan.rollout import traffic_kv
from tandem_operator.resources.revisions import fleet_revision
from tandem_operator.store import Store
from tandem_operator.views import read_all

models = st.sampled_from(["org/a", "org/b", "org/c"]).map(lambda name: {"name": name})
sizes = st.integers(0, 3)
overrides = st.sampled_from([None, {"maxModelLen": 1024}, {"maxModelLen": 2048, "enforceEager": True}])
pools = st.builds(
    lambda replicas, override: {"replicas": replicas} | ({"engineOverrides": override} if override else {}),
    sizes,
    overrides,
)
rollouts = st.fixed_dictionaries(
    {},
    optional={
        "strategy": st.sampled_from(["Surge", "Recreate"]),
        "maxSurge": st.sampled_from([1, 2, "25%", "100%"]),
        "maxUnavailable": st.sampled_from([0, 1, "50%"]),
        "retry": st.integers(0, 2),
    },
)
specs = st.fixed_dictionaries({"model": models, "prefill": st.none() | pools, "decode": pools, "rollout": rollouts})


@given(specs)
@settings(max_examples=10, deadline=None)
def test_nothing_is_planned_after_the_plan_was_applied(spec: dict[str, Any]) -> None:
    """plan ∘ apply = ∅, for the newborn fleet and for the one that serves."""
    world = World(make_fleet(make_spec(**spec)))
    world.reconcile()
    assert plan_fleet(world.snapshot()) == ()
    world.settle()
    assert plan_fleet(world.snapshot()) == ()


def follow(chain: list[dict[str, Any]]) -> None:
    """What edits reach, one after the other, is what a fresh creation gives, and nothing is planned there."""
    world = World(make_fleet(make_spec(**chain[0])))
    world.reconcile()
    world.settle()
    for spec in chain[1:]:
        world.edit(**spec)
        world.settle()
        fresh = World(make_fleet(make_spec(**spec)))
        fresh.reconcile()
        fresh.settle()
        assert _essence(world) == _essence(fresh)
        assert plan_fleet(world.snapshot()) == ()


@given(st.lists(specs, min_size=4, max_size=4))
@settings(max_examples=6, deadline=None)
def test_what_edits_reach_is_what_a_fresh_creation_gives(chain: list[dict[str, Any]]) -> None:
    follow(chain)


@pytest.mark.long
@given(st.lists(specs, min_size=6, max_size=6))
@settings(max_examples=80, deadline=None)
def test_four_hundred_transitions_reach_what_a_fresh_creation_gives(chain: list[dict[str, Any]]) -> None:
    follow(chain)


@given(specs, specs, st.integers(0, 6))
@settings(max_examples=8, deadline=None)
def test_going_back_from_a_spec_that_never_works_recovers(
    good: dict[str, Any], bad: dict[str, Any], steps: int
) -> None:
    """No worker of the bad spec ever becomes ready; what served before is kept, or comes again."""
    world = World(make_fleet(make_spec(**good)))
    world.reconcile()
    world.settle()
    born = {name for kind, name in world.objects if kind == "Deployment"}
    world.edit(**bad)
    for _ in range(steps):
        world.now += timedelta(seconds=1)
        for name in born & {name for kind, name in world.objects if kind == "Deployment"}:
            world.make_available(name)
        world.reconcile()
    world.edit(**good)
    world.settle()
    fresh = World(make_fleet(make_spec(**good)))
    fresh.reconcile()
    fresh.settle()
    assert _essence(world) == _essence(fresh)


def _essence(world: World) -> dict[str, Any]:
    """Names and specs, without what only a history gives: uids, revisions before, the sizes that one was born with."""
    current = f"llama-{fleet_revision(world.fleet.spec)}"
    return {
        f"{kind} {name}": obj["data"]["templates"] if kind == "ControllerRevision" else obj.get("spec", obj.get("data"))
        for (kind, name), obj in world.objects.items()
        if kind != "ControllerRevision" or name == current
    }


class Rollouts(RuleBasedStateMachine):
    """Edits, readiness and reconciliations in any order, with the safety of what serves checked at every write."""

    @initialize(spec=specs)
    def birth(self, spec: dict[str, Any]) -> None:
        self.world = World(make_fleet(make_spec(**spec)))

    @rule(spec=specs)
    def edit(self, spec: dict[str, Any]) -> None:
        self.world.edit(**spec)

    @rule(index=st.integers(0, 5))
    def one_deployment_becomes_available(self, index: int) -> None:
        names = [d["metadata"]["name"] for d in self.world.of("Deployment")]
        if names:
            self.world.make_available(names[index % len(names)])

    @rule(index=st.integers(0, 5))
    def one_deployment_loses_its_workers(self, index: int) -> None:
        deployments = [obj for (kind, _), obj in sorted(self.world.objects.items()) if kind == "Deployment"]
        if deployments:
            status = deployments[index % len(deployments)].get("status", {})
            status.update(availableReplicas=0, readyReplicas=0)

    @rule()
    def pause_or_resume(self) -> None:
        self.world.edit(rollout={"paused": not self.world.fleet.spec.rollout.paused})

    @rule()
    def reconcile(self) -> None:
        for _ in range(6):
            actions = plan_fleet(self.world.snapshot())
            if not actions:
                break
            for action in actions:
                self._take_safely(action)
        else:
            raise AssertionError(f"the plan never ends: {actions}")
        self.world.report()

    def _take_safely(self, action: Action) -> None:
        before = self._serving()
        self.world.take(action)
        if isinstance(action, Delete) and self._is_promised():
            assert not before or self._serving(), f"{action} took away what served"

    def _is_promised(self) -> bool:
        """Surge promises that what serves stays, of pools that are to have workers."""
        spec = self.world.fleet.spec
        sizes = [pool.replicas for pool in (spec.prefill, spec.decode) if pool]
        return spec.rollout.strategy == "Surge" and all(sizes)

    def _serving(self) -> bool:
        """Whether the revision that has the traffic has an available worker in each pool that should have one."""
        told = traffic_kv(self.world.fleet)
        workers = [w for w in read_all(self.world.of("Deployment")) if w.kv_revision == told]
        roles = {w.pool for w in workers}
        return bool(roles) and all(any(w.available for w in workers if w.pool == role) for role in roles)

    @invariant()
    def at_most_one_revision_has_the_traffic(self) -> None:
        if hasattr(self, "world"):
            shares = [r.traffic_percent for r in self.world.fleet.status.revisions]
            assert sum(shares) in (0, 100)

    def teardown(self) -> None:
        """From every state the fleet reaches its spec, once faults stop, and stays there."""
        if not hasattr(self, "world"):
            return
        if self.world.fleet.spec.rollout.paused:
            self.world.edit(rollout={"paused": False})
        self.world.settle()
        assert plan_fleet(self.world.snapshot()) == ()
        wanted = len(self.world.fleet.pool_roles())
        assert len(self.world.of("Deployment")) == wanted
        assert len(self.world.of("WorkerPool")) == wanted


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def make_pod(name: str, uid: str, version: int) -> Manifest:
    return {
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {labels.FLEET: "llama"},
        },
        "status": {},
    }


@given(st.permutations(list(itertools.product(range(6), repeat=1))), st.integers(0, 5))
def test_any_order_of_events_leaves_the_newest_object(order: list[tuple[int]], repeated: int) -> None:
    """Six versions of one pod's life (three, its end, three of its namesake), in any order and with repetition."""
    life = [("MODIFIED", "u1", 1), ("MODIFIED", "u1", 2), ("DELETED", "u1", 3)]
    life += [("MODIFIED", "u2", 4), ("MODIFIED", "u2", 5), ("MODIFIED", "u2", 6)]
    store = Store(lambda key: None)
    for (index,) in [*order, (repeated,)]:
        event, uid, version = life[index]
        pod = make_pod("a", uid, version)
        if event == "DELETED":
            store.remove(POD, pod)
        else:
            store.upsert(POD, pod)
    (left,) = store.all(POD)
    assert (left["metadata"]["uid"], left["metadata"]["resourceVersion"]) == ("u2", "6")
    assert list(store.children(POD, make_fleet().key)) == ["a"]
