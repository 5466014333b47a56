"""`tandem rollout status|history|undo FLEET`."""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from tandem_api.v1alpha1 import InferenceDeploymentSpec, InferenceDeploymentStatus
from tandem_cli.errors import CommandError
from tandem_cli.live_fleet import FleetObjects, LiveCluster
from tandem_cli.undo import build_patch, choose_revision
from tandem_operator.resources.kept_revision import Kept, read_kept_revision

_EPILOG = """examples:
  tandem rollout status llama-70b -n team
  tandem rollout undo llama-70b                  print the patch that the manifest in Git should carry
  tandem rollout undo llama-70b --apply          go back at once, by spec.rollout.pin
  kubectl patch infd llama-70b --type merge --patch-file <(tandem rollout undo llama-70b)"""


def configure(parser: argparse.ArgumentParser) -> None:
    """All flags, with help."""
    parser.description = "See how a fleet changes from one revision to the next, and take a change back."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("status", "where the rollout stands"),
        ("history", "the kept revisions, the newest first"),
        ("undo", "the way back to the revision before, or to another kept one"),
    ):
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        action.add_argument("fleet", metavar="FLEET", help="name of an InferenceDeployment")
        action.add_argument("-n", "--namespace", help="default: the namespace of the kubeconfig's context")
        action.add_argument("--kubeconfig", help="default: $KUBECONFIG, or ~/.kube/config")
        if name == "undo":
            action.add_argument("--to", metavar="REVISION", help="as in history; default: the newest that does not run")
            action.add_argument("--apply", action="store_true", help="set spec.rollout.pin instead of printing a patch")


def run(options: argparse.Namespace) -> int:
    """0: done. 2: wrong input, told in one sentence."""
    try:
        cluster = LiveCluster(options.kubeconfig, options.namespace)
        view = read_view(cluster.fetch(options.fleet))
        for line in _ACTIONS[options.action](view, cluster, options):
            print(line)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


@dataclass(frozen=True)
class View:
    """A fleet as the command shows it; `history` the newest first."""

    name: str
    namespace: str
    spec: InferenceDeploymentSpec
    status: InferenceDeploymentStatus
    history: tuple[Kept, ...]


def read_view(objects: FleetObjects) -> View:
    """Parses what the cluster holds.

    Raises:
        CommandError: it is of another release.
    """
    metadata = objects.fleet["metadata"]
    try:
        spec = InferenceDeploymentSpec.model_validate(objects.fleet["spec"])
        status = InferenceDeploymentStatus.model_validate(objects.fleet.get("status") or {})
    except ValidationError as error:
        raise CommandError(f"the object is of another release than this command: {error.errors()[0]['msg']}") from error
    history = sorted((read_kept_revision(revision) for revision in objects.revisions), key=lambda kept: -kept.number)
    return View(metadata["name"], metadata["namespace"], spec, status, tuple(history))


def show_status(view: View, *_: Any) -> Iterator[str]:
    """Phase, step, traffic, and what stands in the way."""
    rollout = view.status.rollout
    if rollout is None:
        yield f"{view.namespace}/{view.name}: the operator has not looked at it yet"
        return
    message = f": {rollout.message}" if rollout.message else ""
    yield f"{view.namespace}/{view.name}: {rollout.phase}, revision {rollout.revision}{message}"
    for revision in view.status.revisions:
        yield f"  {revision.kv_revision}  {revision.traffic_percent:3d}%  {revision.phase}"
    if rollout.rejected is not None:
        rejected = rollout.rejected
        yield f"  taken back at {rejected.time}: {rejected.revision}, {rejected.message}"
    if view.spec.rollout.pin is not None:
        yield f"  pinned to {view.spec.rollout.pin}: remove spec.rollout.pin to follow the spec again"
    for condition in view.status.conditions:
        if condition.type == "Stalled" and condition.status == "True":
            yield f"  Stalled: {condition.reason}: {condition.message}"


def show_history(view: View, *_: Any) -> Iterator[str]:
    """One line per kept revision."""
    yield "NUMBER  REVISION  KV-REVISION  SINCE                 MODEL"
    for kept in view.history:
        yield (
            f"{kept.number:<6d}  {kept.revision:8s}  {kept.kv_revision:11s}  {kept.created:20s}  "
            f"{kept.spec['model']['name']}{_remark(view, kept)}"
        )


def _remark(view: View, kept: Kept) -> str:
    rollout = view.status.rollout
    if rollout is None:
        return ""
    if rollout.rejected is not None and rollout.rejected.revision == kept.revision:
        return "  (taken back)"
    return "  (runs)" if rollout.revision == kept.revision else ""


def undo(view: View, cluster: LiveCluster, options: argparse.Namespace) -> Iterator[str]:
    """The patch, or the pin."""
    kept = choose_revision(view.history, view.status.rollout, options.to)
    if options.apply:
        cluster.pin(view.name, kept.revision)
        yield f"{view.namespace}/{view.name} is pinned to revision {kept.revision}."
        yield "A pipeline that owns spec.rollout takes the pin away again: let Git carry `tandem rollout undo`, too."
        return
    patch = build_patch(view.spec, kept)
    if not patch:
        raise CommandError(f"the spec asks for revision {kept.revision} already")
    yield f"# {view.namespace}/{view.name} back to revision {kept.revision} (number {kept.number}): a merge patch"
    yield yaml.safe_dump({"spec": patch}, sort_keys=False, width=120).rstrip()


_ACTIONS: dict[str, Callable[[View, LiveCluster, argparse.Namespace], Iterator[str]]] = {
    "status": show_status,
    "history": show_history,
    "undo": undo,
}
