"""One manifest, many regions: each operator takes its own slice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from unit.operator.fleets import DEFAULTS, make_fleet, make_spec
from unit.operator.world import World

from tandem_api.conditions import ConditionType, Reason
from tandem_api.router import FleetReport
from tandem_operator.kinds import Manifest
from tandem_operator.model import Fleet, RouterView
from tandem_operator.observe import read_fleet
from tandem_operator.resources.revisions import fleet_revision, kv_revision, template_revision
from tandem_operator.slicing import is_served_in, take_slice
from tandem_operator.validate import find_problem

REGIONS: list[dict[str, Any]] = [
    {
        "name": "eu",
        "prefill": {"replicas": 5},
        "decode": {"min": 2, "max": 9, "parallelism": {"tensor": 2}},
        "gpuBudget": 12,
    },
    {"name": "us", "performanceProfile": "70b-a100-tp4"},
]


def read(region: str, **spec: Any) -> Fleet:
    wire = make_spec(**{"regions": REGIONS, **spec}).to_wire()
    metadata = {"namespace": "team", "name": "llama", "uid": "uid-fleet", "generation": 1}
    manifest: Manifest = {"metadata": metadata, "spec": wire}
    return read_fleet(manifest, region)


def test_what_a_region_says_takes_the_place_of_what_the_fleet_says() -> None:
    spec = read("eu", decode={"replicas": 3, "max": 4}).spec
    assert spec.prefill is not None
    assert (spec.prefill.replicas, spec.decode.replicas) == (5, 3)
    assert (spec.decode.min, spec.decode.max, spec.decode.parallelism.tensor) == (2, 9, 2)
    assert spec.autoscaling.gpu_budget == 12


def test_a_region_without_a_word_runs_the_fleet_as_written() -> None:
    spec = read("us", engine={"performanceProfile": "70b-h100-tp4"}).spec
    assert spec.engine.performance_profile == "70b-a100-tp4"
    assert (spec.prefill, spec.decode) == (make_spec().prefill, make_spec().decode)


def test_a_model_of_speed_in_the_slice_takes_the_place_of_the_profile_of_the_fleet() -> None:
    slow = {"name": "eu", "performanceModel": {"p1Ms": 1, "d0Ms": 9, "kvCapacityTokens": 4096}}
    engine = read("eu", engine={"performanceProfile": "70b-h100-tp4"}, regions=[slow]).spec.engine
    assert engine.performance_profile is None
    assert engine.performance_model is not None
    assert engine.performance_model.d0_ms == 9


def test_regions_with_other_shapes_have_one_kv_revision() -> None:
    eu, us = read("eu").spec, read("us").spec
    assert kv_revision(eu) == kv_revision(us)
    assert template_revision(eu, "decode") != template_revision(us, "decode")


def test_a_list_of_regions_replaces_no_worker_of_those_that_it_leaves_as_they_were() -> None:
    assert fleet_revision(read("us").spec) == fleet_revision(make_spec())


@pytest.mark.parametrize(("region", "here"), [("eu", True), ("us", True), ("ap", False), ("", True)])
def test_a_region_runs_a_fleet_whose_list_names_it(region: str, here: bool) -> None:
    assert read(region).is_here is here
    assert is_served_in(make_spec(), region)


def test_the_slice_of_a_slice_is_the_slice() -> None:
    once = take_slice(make_spec(regions=REGIONS), "eu")
    assert take_slice(once, "eu") == once


@pytest.mark.parametrize(
    ("regions", "field", "fix"),
    [
        ([{"name": "eu", "decode": {"min": 5}}], "spec.decode.min", "change it there or in spec.regions"),
        ([{"name": "eu", "decode": {"parallelism": {"tensor": 3}}}], "spec.prefill.parallelism.tensor", "spec.regions"),
        ([{"name": "eu", "prefill": {"parallelism": {"pipeline": 2}}}], "spec.prefill.parallelism", "must be 1"),
        ([{"name": "eu", "prefill": {"nodes": 2}}], "spec.prefill.parallelism", "must be 1"),
    ],
)
def test_what_only_a_slice_makes_wrong_is_said_of_the_slice(regions: list[Any], field: str, fix: str) -> None:
    spec: dict[str, Any] = {"prefill": {"parallelism": {"tensor": 4}}, "decode": {"max": 4}}
    assert find_problem(read("us", **spec, regions=[*regions, {"name": "us"}]).spec) is None
    problem = find_problem(read("eu", **spec, regions=regions).spec)
    assert problem is not None
    assert (problem.field, fix in problem.text) == (field, True)


def test_an_installation_without_a_name_touches_nothing_and_says_how_to_name_it() -> None:
    problem = find_problem(read("").spec)
    assert problem is not None
    assert problem.field == "spec.regions"
    assert "set region.name" in problem.text
    world = World(fleet=read(""), defaults=DEFAULTS)
    assert world.reconcile() == []


def test_a_region_that_is_not_listed_runs_nothing_and_is_ready() -> None:
    world = World(fleet=replace(make_fleet(), is_here=False), defaults=replace(DEFAULTS, region="ap"), routers=LISTED)
    assert world.reconcile() == []
    assert conditions(world) == {
        ConditionType.READY: ("True", Reason.NOT_IN_THIS_REGION),
        ConditionType.RECONCILING: ("False", Reason.SETTLED),
        ConditionType.STALLED: ("False", Reason.PROGRESSING),
        ConditionType.ROUTER_READY: ("True", Reason.ROUTER_LISTS_GENERATION),
    }


def test_a_region_that_is_taken_off_the_list_lets_its_workers_go_and_then_its_pools() -> None:
    world = World(defaults=replace(DEFAULTS, region="ap"), routers=LISTED)
    world.settle()
    world.fleet = replace(world.fleet, is_here=False)
    world.reconcile()
    assert (world.of("Deployment"), world.of("WorkerPool")) == ([], [])
    assert world.of("Secret"), "draining workers need the keys"
    assert conditions(world)[ConditionType.READY] == ("True", Reason.NOT_IN_THIS_REGION)
    world.fleet = replace(world.fleet, is_here=True)
    world.settle()
    assert conditions(world)[ConditionType.READY] == ("True", Reason.AVAILABLE)


def test_without_a_router_that_lists_it_nobody_would_send_its_requests_on() -> None:
    world = World(fleet=replace(make_fleet(), is_here=False), defaults=replace(DEFAULTS, region="ap"))
    world.reconcile()
    assert conditions(world)[ConditionType.READY] == ("False", Reason.ROUTER_UNREACHABLE)


LISTED = RouterView(
    pods=1,
    answering=1,
    reports=(
        FleetReport(namespace="team", name="llama", uid="uid-fleet", generation=9, served_name="m", serving=True),
    ),
)


def conditions(world: World) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in world.fleet.status.conditions}
