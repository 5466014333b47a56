"""What is said of a fleet that other regions run."""

from tandem_api.conditions import ConditionType, Reason, Status
from tandem_operator.model import Snapshot
from tandem_operator.status.facts import Verdict
from tandem_operator.status.routing import judge_router

Verdicts = dict[ConditionType, Verdict]


def judge_elsewhere(snapshot: Snapshot) -> Verdicts:
    """Conditions. Ready: nothing of it is left here, and a router knows it and sends its requests on."""
    router = judge_router(snapshot)
    waiting = _find_wait(snapshot, router)
    done = Verdict(
        Status.TRUE, Reason.NOT_IN_THIS_REGION, f"spec.regions does not list {_name(snapshot)}: others run it"
    )
    settled = Verdict(Status.FALSE, Reason.SETTLED, "the fleet is what the spec says")
    return {
        ConditionType.READY: waiting or done,
        ConditionType.RECONCILING: Verdict(Status.TRUE, waiting.reason, waiting.message) if waiting else settled,
        ConditionType.STALLED: Verdict(Status.FALSE, Reason.PROGRESSING, "nothing stands in the way"),
        ConditionType.ROUTER_READY: router,
    }


def _find_wait(snapshot: Snapshot, router: Verdict) -> Verdict | None:
    left = len(snapshot.pods)
    if left or snapshot.pools or snapshot.deployments:
        text = f"spec.regions does not list {_name(snapshot)}: {left} workers finish their streams and leave"
        return Verdict(Status.FALSE, Reason.PROGRESSING, text)
    return router if router.status != Status.TRUE else None


def _name(snapshot: Snapshot) -> str:
    return snapshot.defaults.region
