"""Flags of `tandem explain`."""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tandem_api.conditions import ConditionType
from tandem_operator.act import describe
from tandem_operator.credentials import load_credentials
from tandem_operator.errors import ApiError, ConfigurationError
from tandem_operator.explain.foresee import Foresight, foresee
from tandem_operator.explain.inputs import fetch_store, fill_store, read_manifests, read_namespaces, take_in
from tandem_operator.kinds import INFERENCE_DEPLOYMENT, Manifest
from tandem_operator.model import Defaults, Fleet, PoolRole
from tandem_operator.observe import UnreadableSpec, read_fleet
from tandem_operator.resources.podspec import gpu_count
from tandem_operator.resources.revisions import kv_revision, template_revision
from tandem_operator.settings import DEFAULT_ENGINE_IMAGE, DEFAULT_WORKER_IMAGE, read_region
from tandem_operator.store import Store

_EPILOG = """examples:
  tandem explain -f fleet.yaml                       as if the cluster were empty
  tandem explain -f fleet.yaml --live -n team        against a cluster, read only; needs list on what the operator makes
  kubectl get infd,wpool,controllerrevision,deploy,svc,pdb,netpol,pod -n team -o yaml > dump.yaml
  tandem explain -f fleet.yaml --state dump.yaml     against what somebody saw

Exit code 1: the fleet would be Stalled. Admission rules are the API server's to judge: kubectl apply --dry-run=server.
"""
_HOME = "tandem"
_SAID = (ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED)


def configure(parser: argparse.ArgumentParser) -> None:
    """All flags, with help."""
    parser.description = "Print what the operator would do with InferenceDeployments, and why. Touches nothing."
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("-f", "--filename", type=Path, required=True, metavar="CR.yaml", help="file with InferenceDeployments")
    add("-n", "--namespace", default="default", help="namespace of objects that name none (default)")
    state = parser.add_mutually_exclusive_group()
    state.add_argument("--state", type=Path, metavar="DUMP.yaml", help="objects of the cluster, as kubectl get -o yaml")
    state.add_argument("--live", action="store_true", help="read the cluster of the kubeconfig")
    add("--kubeconfig", help="for --live (default: $KUBECONFIG)")
    add("--engine-image", default=DEFAULT_ENGINE_IMAGE, help="the installation's default")
    add("--worker-image", default=DEFAULT_WORKER_IMAGE, help="the installation's default")
    add("--region", type=read_region, default="", help="region.name of the installation, where spec.regions has a list")
    add(
        "--router-namespace",
        help="namespace of the installation (default: as the live NetworkPolicy says, else tandem)",
    )


def run(options: argparse.Namespace) -> int:
    """0: told. 1: told, and a fleet would be Stalled. 2: wrong input."""
    try:
        return asyncio.run(_run(options))
    except (ConfigurationError, ApiError) as error:
        print(f"tandem explain: {error}", file=sys.stderr)
        return 2


async def _run(options: argparse.Namespace) -> int:
    objects = read_manifests(options.filename)
    wanted = [obj for obj in objects if obj["kind"] == INFERENCE_DEPLOYMENT.name]
    if not wanted:
        raise ConfigurationError(f"{options.filename} holds no InferenceDeployment: give one")
    stores = {namespace: await _read_store(options, namespace) for namespace in _namespaces(wanted, options.namespace)}
    outcomes = [await _explain(obj, stores, options) for obj in wanted]
    return int(not all(outcomes))


def _namespaces(objects: list[Manifest], default: str) -> set[str]:
    return {obj["metadata"].get("namespace") or default for obj in objects}


async def _read_store(options: argparse.Namespace, namespace: str) -> Store:
    store = Store(lambda key: None)
    if options.state:
        fill_store(store, read_manifests(options.state), namespace)
    if options.live:
        await fetch_store(load_credentials(options.kubeconfig, os.environ), store, namespace)
    return store


async def _explain(wanted: Manifest, stores: dict[str, Store], options: argparse.Namespace) -> bool:
    """Prints one fleet. False when it would be Stalled."""
    store = stores[wanted["metadata"].get("namespace") or options.namespace]
    obj = take_in(store, wanted, options.namespace)
    try:
        fleet = read_fleet(obj, options.region)
    except UnreadableSpec as error:
        print(f"{obj['metadata']['namespace']}/{obj['metadata']['name']}\n  the spec cannot be read: {error.problem}")
        return False
    routers, scrapers = read_namespaces(store)
    home = options.router_namespace or routers or _HOME
    defaults = Defaults(options.engine_image, options.worker_image, home, None, scrapers, options.region)
    foresight = await foresee(fleet, store, defaults, datetime.now(UTC))
    print("\n".join(_lines(fleet, foresight)))
    return not _is_stalled(foresight)


def _lines(fleet: Fleet, foresight: Foresight) -> Iterator[str]:
    yield f"{fleet.key}, generation {fleet.generation}"
    if fleet.is_here:
        yield f"  kv-revision {kv_revision(fleet.spec)}"
        yield from (f"  {role}: {_describe_pool(fleet, role)}" for role in fleet.pool_roles())
    yield "  plan:" if foresight.rounds else "  plan: nothing to do"
    for number, actions in enumerate(foresight.rounds, 1):
        yield from (f"    {number}. {describe(action)}" for action in actions)
    yield "  then:" if foresight.rounds else "  now:"
    for condition in foresight.report.status.conditions:
        if condition.type in _SAID:
            yield f"    {condition.type}={condition.status} {condition.reason}: {condition.message}"


def _describe_pool(fleet: Fleet, role: PoolRole) -> str:
    gpus = gpu_count(fleet, role)
    return f"template {template_revision(fleet.spec, role)}, {gpus} GPU{'s' if gpus != 1 else ''} a worker"


def _is_stalled(foresight: Foresight) -> bool:
    conditions = foresight.report.status.conditions
    return any(c.type == ConditionType.STALLED and c.status == "True" for c in conditions)
