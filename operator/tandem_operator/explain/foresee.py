"""The operator's own plan and its own hand, on a cluster of paper, until nothing is left to do."""

from dataclasses import dataclass
from datetime import datetime

from tandem_api.router import FleetReport
from tandem_operator.act import act
from tandem_operator.errors import OperatorError
from tandem_operator.explain.paper import PaperCluster
from tandem_operator.kinds import SECRET, Manifest
from tandem_operator.model import Action, Apply, Defaults, Fleet, FleetKeys, RouterView, Snapshot
from tandem_operator.observe import observe
from tandem_operator.plan.fleet import plan_fleet
from tandem_operator.resources.keys_secret import build_keys_secret
from tandem_operator.status.fleet import Report, build_report
from tandem_operator.store import Store

_ROUNDS = 8
_KEYS = FleetKeys({})  # nobody reads the keys of a fleet to explain it


class Endless(OperatorError):  # noqa: N818
    """The plan never became empty: a fault of ours."""


@dataclass(frozen=True)
class Foresight:
    """What the operator would do at once, in rounds, and what it would then say.

    Attributes:
        before: the snapshot that it would see first.
        rounds: each round's actions follow from what the round before made.
        report: the statuses, if no pod had moved meanwhile.
    """

    before: Snapshot
    rounds: tuple[tuple[Action, ...], ...]
    report: Report


async def foresee(fleet: Fleet, store: Store, defaults: Defaults, now: datetime) -> Foresight:
    """Plans a fleet against the objects in `store`, which is changed on the way.

    Raises:
        Endless: the plan does not settle.
    """
    cluster = PaperCluster(store)
    rounds: list[tuple[Action, ...]] = []
    first = snapshot = _observe(fleet, store, defaults, _find_secret(fleet, store, defaults))
    while actions := plan_fleet(snapshot):
        if len(rounds) == _ROUNDS:
            raise Endless(f"the plan of {fleet.key} does not settle: {actions}")
        rounds.append(actions)
        secret = snapshot.secret
        for action in actions:
            await act(action, cluster, store)
            secret = action.manifest if _is_secret(action) and isinstance(action, Apply) else secret
        snapshot = _observe(fleet, store, defaults, secret)
    return Foresight(first, tuple(rounds), build_report(snapshot, now))


def _observe(fleet: Fleet, store: Store, defaults: Defaults, secret: Manifest | None) -> Snapshot:
    return observe(fleet, store, defaults, (_KEYS, secret), _routers_that_follow(fleet), None)


def _routers_that_follow(fleet: Fleet) -> RouterView:
    """What routers know is not asked for: they are taken to list the fleet as it would be."""
    key = fleet.key
    report = FleetReport(
        namespace=key.namespace,
        name=key.name,
        uid=fleet.uid,
        generation=fleet.generation,
        served_name=fleet.spec.served_name,
        serving=True,
    )
    return RouterView(pods=1, answering=1, reports=(report,))


def _find_secret(fleet: Fleet, store: Store, defaults: Defaults) -> Manifest | None:
    """A fleet that has pools has its Secret; what is in it is the operator's alone to know."""
    born = bool(_observe(fleet, store, defaults, None).pools)
    return build_keys_secret(fleet, _KEYS) if born else None


def _is_secret(action: Action) -> bool:
    return isinstance(action, Apply) and action.manifest["kind"] == SECRET.name
