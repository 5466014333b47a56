"""What a refusal of the API server means for the user."""

from tandem_api.conditions import Reason
from tandem_operator.errors import Conflict, NotFound, Rejected
from tandem_operator.kinds import LEADER_WORKER_SET
from tandem_operator.model import Action, Apply, CreatePool
from tandem_operator.status.facts import Refusal

_FORBIDDEN = 403
_NO_GROUPS = (
    "nodes is above 1, and the cluster has no LeaderWorkerSet (leaderworkerset.x-k8s.io/v1): install its controller, "
    "or set nodes to 1"
)


def explain_refusal(action: Action, error: Rejected | Conflict | NotFound) -> Refusal | None:
    """The refusal as a condition, or None when trying again with a fresh view is the answer."""
    if isinstance(action, CreatePool) and isinstance(error, Conflict):
        return _name_taken("WorkerPool", action.manifest["metadata"]["name"])
    if not isinstance(action, Apply):
        return None
    kind, name = action.manifest["kind"], action.manifest["metadata"]["name"]
    if isinstance(error, NotFound):
        return Refusal(Reason.LEADER_WORKER_SET_MISSING, _NO_GROUPS) if kind == LEADER_WORKER_SET.name else None
    if isinstance(error, Conflict):
        if not error.is_taken or action.uid is not None:
            return None
        return _name_taken(kind, name)
    if error.status == _FORBIDDEN:
        return Refusal(Reason.POD_REJECTED, f"{kind} {name} is forbidden: {error.message}")
    return Refusal(
        Reason.INVALID_SPEC, f"{kind} {name} is refused; correct the field of the spec it comes from: {error.message}"
    )


def _name_taken(kind: str, name: str) -> Refusal:
    text = f"{kind} {name} exists and belongs to somebody else: delete it, or name the InferenceDeployment otherwise"
    return Refusal(Reason.NAME_TAKEN, text)
