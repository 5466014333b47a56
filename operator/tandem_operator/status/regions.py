"""Reachable: what this region's routers say of another one."""

from collections.abc import Sequence

from tandem_api.conditions import Reason, Status
from tandem_api.regions import PeerReport, RegionMatrix
from tandem_operator.status.facts import Verdict

_HEARD = ("up", "drained")


def judge_region(name: str, own: str, matrices: Sequence[RegionMatrix]) -> Verdict:
    """Whether a region can be sent requests. `own`: this region's name; `matrices`: what its routers answered."""
    if name == own:
        return Verdict(Status.TRUE, Reason.THIS_REGION, "this region itself")
    if not matrices:
        return Verdict(Status.UNKNOWN, Reason.ROUTER_UNREACHABLE, "no router of this region says what it hears")
    reports = [matrix.peers[name] for matrix in matrices if name in matrix.peers]
    if not reports:
        return Verdict(Status.UNKNOWN, Reason.ROUTER_BEHIND, "no router of this region lists it yet")
    return _judge_peer(reports, len(matrices))


def _judge_peer(reports: Sequence[PeerReport], routers: int) -> Verdict:
    if any(report.state == "no_url" for report in reports):
        return Verdict(Status.FALSE, Reason.NO_URL, "spec.url is not set: give its internal listener's address")
    heard = [report for report in reports if report.state in _HEARD]
    if not heard:
        faults = sorted({report.fault for report in reports if report.fault})
        text = "; ".join(faults) or "nothing was heard of it"
        return Verdict(Status.FALSE, Reason.SILENT, text[:1024])
    if all(report.state == "drained" for report in heard):
        return Verdict(Status.TRUE, Reason.DRAINED, "it is heard, and takes nothing: spec.drain here or there")
    return Verdict(Status.TRUE, Reason.CONNECTED, f"{len(heard)} of {routers} routers hear it")
