"""tandem rollout: what it shows, and the way back."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from unit.operator.fleets import make_fleet, make_spec
from unit.operator.world import World

from tandem_api.v1alpha1 import InferenceDeploymentSpec, Rejection
from tandem_cli import rollout
from tandem_cli.app import main
from tandem_cli.errors import CommandError
from tandem_cli.live_fleet import FleetObjects
from tandem_cli.undo import build_patch, choose_revision
from tandem_operator.resources.revisions import fleet_revision


class Cluster:
    """Remembers what was pinned."""

    def __init__(self) -> None:
        self.pinned: list[tuple[str, str]] = []

    def pin(self, name: str, revision: str) -> None:
        self.pinned.append((name, revision))


def changed_world() -> World:
    """A fleet that went from one model and cache to another, with an override that is new."""
    world = World(make_fleet(make_spec(rollout={"maxSurge": "100%"})))
    world.reconcile()
    world.settle()
    world.edit(
        model={"name": "org/other", "revision": "v2"},
        decode={"replicas": 5, "engineOverrides": {"maxModelLen": 1024}},
    )
    world.settle()
    return world


def view_of(world: World) -> rollout.View:
    fleet = {
        "metadata": {"name": "llama", "namespace": "team", "uid": "uid-fleet"},
        "spec": world.fleet.spec.to_wire(),
        "status": world.fleet.status.to_wire(),
    }
    return rollout.read_view(FleetObjects(fleet, tuple(world.of("ControllerRevision"))))


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"to": None, "apply": False, **given})


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386, as its pseudocode has it."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = merge(target.get(name), value)
    return target


def test_the_patch_leads_back_to_the_very_revision_and_keeps_the_sizes() -> None:
    world = changed_world()
    view = view_of(world)
    kept = choose_revision(view.history, view.status.rollout, None)
    patch = build_patch(view.spec, kept)
    patched = InferenceDeploymentSpec.model_validate(merge(view.spec.to_wire(), patch))
    assert fleet_revision(patched) == kept.revision == fleet_revision(make_spec())
    assert patched.decode.replicas == 5
    assert patch["model"] == {"name": "org/model", "revision": None}


def test_undo_prints_the_patch_and_writes_nothing() -> None:
    cluster = Cluster()
    text = "\n".join(rollout.undo(view_of(changed_world()), cluster, options()))  # type: ignore[arg-type]
    assert text.startswith("# team/llama back to revision")
    assert "name: org/model" in text
    assert cluster.pinned == []


def test_undo_applied_pins_the_revision_before() -> None:
    cluster = Cluster()
    list(rollout.undo(view_of(changed_world()), cluster, options(apply=True)))  # type: ignore[arg-type]
    assert cluster.pinned == [("llama", fleet_revision(make_spec()))]


def test_a_revision_that_was_taken_back_is_no_way_back() -> None:
    view = view_of(changed_world())
    first = view.history[-1]
    assert view.status.rollout is not None
    rejected = Rejection(revision=first.revision, time="t", message="m")
    status = view.status.rollout.model_copy(update={"rejected": rejected})
    with pytest.raises(CommandError, match="no revision to go back to"):
        choose_revision(view.history, status, None)
    assert choose_revision(view.history, status, first.revision) is first


def test_an_unknown_revision_names_the_known() -> None:
    view = view_of(changed_world())
    with pytest.raises(CommandError, match=view.history[0].revision):
        choose_revision(view.history, view.status.rollout, "ffffffff")


def test_undo_to_what_the_spec_asks_for_is_told() -> None:
    world = changed_world()
    with pytest.raises(CommandError, match="already"):
        list(rollout.undo(view_of(world), Cluster(), options(to=fleet_revision(world.fleet.spec))))  # type: ignore[arg-type]


def test_status_and_history_tell_phase_traffic_and_revisions() -> None:
    view = view_of(changed_world())
    assert "Complete" in next(rollout.show_status(view))
    shown = list(rollout.show_history(view))
    assert len(shown) == 3
    assert "org/other  (runs)" in shown[1]
    assert "org/model" in shown[2]


def test_without_a_cluster_one_sentence_says_what_to_give(tmp_path: Any, capsys: Any) -> None:
    assert main(["rollout", "status", "x", "--kubeconfig", str(tmp_path / "none")]) == 2
    assert "give --kubeconfig" in capsys.readouterr().err
