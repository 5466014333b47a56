"""Gathers, from the store, all that one reconciliation needs."""

from collections.abc import Iterable

from pydantic import ValidationError

from tandem_api.v1alpha1 import InferenceDeploymentSpec, InferenceDeploymentStatus
from tandem_operator.autoscale.scaler import Said
from tandem_operator.kinds import (
    CONTROLLER_REVISION,
    DEPLOYMENT,
    LEADER_WORKER_SET,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    WORKER_POOL,
    Manifest,
)
from tandem_operator.model import Defaults, Fleet, FleetKeys, Key, Problem, RouterView, Snapshot
from tandem_operator.slicing import is_served_in, take_slice
from tandem_operator.store import Store


class UnreadableSpec(Exception):  # noqa: N818 - carries a Problem to the status, not to a caller
    """The stored spec does not fit this operator's schema."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def read_fleet(obj: Manifest, region: str) -> Fleet:
    """Parses an InferenceDeployment, and takes the slice of it that `region` runs.

    Raises:
        UnreadableSpec: naming the first field that does not fit.
    """
    metadata = obj["metadata"]
    try:
        spec = InferenceDeploymentSpec.model_validate(obj.get("spec") or {})
    except ValidationError as error:
        raise UnreadableSpec(_problem(error)) from None
    key = Key(metadata["namespace"], metadata["name"])
    here = is_served_in(spec, region)
    return Fleet(key, metadata["uid"], metadata["generation"], take_slice(spec, region), read_status(obj), here)


def read_status(obj: Manifest) -> InferenceDeploymentStatus:
    """The status as it was last written; one that cannot be read counts as none, and is written anew."""
    try:
        return InferenceDeploymentStatus.model_validate(obj.get("status") or {})
    except ValidationError:
        return InferenceDeploymentStatus()


def _problem(error: ValidationError) -> Problem:
    first = error.errors()[0]
    path = ".".join(("spec", *(str(part) for part in first["loc"])))
    return Problem(
        path, f"{first['msg']}; this operator's schema is that of its release's CRDs: apply the same release"
    )


def observe(
    fleet: Fleet,
    store: Store,
    defaults: Defaults,
    secrets: tuple[FleetKeys, Manifest | None],
    routers: RouterView,
    scaling: Said | None,
) -> Snapshot:
    """The snapshot of one fleet, whose InferenceDeployment is `fleet`. `secrets`: its keys, and its Secret as it is."""
    key = fleet.key
    pools = _owned(store.children(WORKER_POOL, key).values(), {fleet.uid})
    pool_uids = {pool["metadata"]["uid"] for pool in pools}
    by_pool = {
        kind: _owned(store.children(kind, key).values(), pool_uids)
        for kind in (DEPLOYMENT, LEADER_WORKER_SET, SERVICE, POD_DISRUPTION_BUDGET)
    }
    revisions = _owned(store.children(CONTROLLER_REVISION, key).values(), {fleet.uid})
    policies = _owned(store.children(NETWORK_POLICY, key).values(), {fleet.uid})
    return Snapshot(
        fleet=fleet,
        defaults=defaults,
        keys=secrets[0],
        pools={pool["spec"]["role"]: pool for pool in pools},
        revisions=tuple(revisions),
        deployments=(*by_pool[DEPLOYMENT], *by_pool[LEADER_WORKER_SET]),
        services=_by_name(by_pool[SERVICE]),
        budgets=_by_name(by_pool[POD_DISRUPTION_BUDGET]),
        policies=_by_name(policies),
        secret=secrets[1],
        pods=tuple(store.children(POD, key).values()),
        routers=routers,
        scaling=scaling,
    )


def _owned(objects: Iterable[Manifest], owners: set[str]) -> list[Manifest]:
    """Those whose controller is one of `owners`: an orphan, or a namesake's child, is not ours."""
    return [obj for obj in objects if _controller(obj) in owners]


def _controller(obj: Manifest) -> str | None:
    references = obj["metadata"].get("ownerReferences") or ()
    return next((reference["uid"] for reference in references if reference.get("controller")), None)


def _by_name(objects: Iterable[Manifest]) -> dict[str, Manifest]:
    return {obj["metadata"]["name"]: obj for obj in objects}
