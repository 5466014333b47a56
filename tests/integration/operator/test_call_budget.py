"""What the operator asks of the API server, to the call, by the server's own audit log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from integration.operator.audit import Asked, AuditLog, open_audit_log
from integration.operator.conftest import Installation, Kube, OperatorProcess, make_manifest, wait_until

from tandem_operator.kinds import WATCHED
from tandem_operator.rbac import ACCESS, Access, Scope

pytestmark = pytest.mark.integration

UNUSED_HERE = {
    "fleet/pods": {"patch"},  # deletion costs: pods of KWOK say nothing of their load
    "fleet/leaderworkersets": {"create", "delete", "list", "patch"},  # test_groups.py uses them
    "fleet/leaderworkersets/scale": {"patch"},
}
STATUS = ("patch inferencedeployments/status", "patch workerpools/status", "create events")
CHILDREN = Counter(
    {
        "patch secrets": 1,
        "patch controllerrevisions": 1,
        "patch networkpolicies": 1,
        "create workerpools": 2,
        "patch services": 2,
        "patch poddisruptionbudgets": 2,
        "patch deployments": 2,
    }
)


@pytest.fixture(scope="module")
def audit(installation: Installation) -> AuditLog:
    """From the module's first call on: never marked anew."""
    return open_audit_log(installation)


@pytest.fixture(scope="module")
def operator(installation: Installation, audit: AuditLog) -> Iterator[OperatorProcess]:
    with installation.replica() as process:
        yield process


@pytest.fixture
def calls(installation: Installation, audit: AuditLog, operator: OperatorProcess) -> AuditLog:
    """From the test's first call on."""
    return open_audit_log(installation)


def children_of(writes: Counter[str]) -> Counter[str]:
    """Writes of children: how often a status is written depends on when pods become ready."""
    return Counter({name: count for name, count in writes.items() if name not in STATUS})


def wait_ready(kube: Kube, text: str) -> None:
    wait_until(lambda: kube.get("infd", "budget").get("status", {}).get("readyText") == text, 30)


def test_a_creation_writes_each_child_once(calls: AuditLog, kube: Kube) -> None:
    kube.apply(make_manifest("budget"))
    wait_ready(kube, "P 1/1 D 2/2")
    writes = calls.wait_quiet()
    assert children_of(writes) == CHILDREN
    assert writes["patch inferencedeployments/status"] <= 10  # one for each time that a pod is seen to become ready
    assert writes["patch workerpools/status"] <= 10


def test_a_change_of_nothing_that_runs_is_one_write(calls: AuditLog, kube: Kube) -> None:
    """The status says that the new generation was seen."""
    kube.apply(make_manifest("budget", routing={"queueTimeoutSeconds": 7}))
    wait_until(lambda: calls.writes(), 10)
    assert calls.wait_quiet() == Counter({"patch inferencedeployments/status": 1})


def test_a_change_of_size_writes_the_scale_and_the_deployment(calls: AuditLog, kube: Kube) -> None:
    kube.apply(make_manifest("budget", routing={"queueTimeoutSeconds": 7}, decode={"replicas": 3}))
    wait_ready(kube, "P 1/1 D 3/3")
    assert children_of(calls.wait_quiet()) == Counter({"patch workerpools/scale": 1, "patch deployments": 1})


def test_nothing_is_asked_at_rest_but_the_lease_and_the_root_keys(calls: AuditLog, kube: Kube) -> None:
    time.sleep(6)
    asked = {str(call) for call in calls.read()}
    assert {"get leases", "update leases"} <= asked
    assert asked <= {"get leases", "update leases", "get secrets"}


def test_a_restart_lists_and_watches_each_kind_and_writes_nothing(
    installation: Installation, calls: AuditLog, operator: OperatorProcess
) -> None:
    operator.stop()
    calls.mark()
    operator.start()
    wait_until(operator.is_leading, 30)
    ok = 'tandem_operator_reconcile_seconds_count{outcome="ok"}'
    wait_until(lambda: operator.metrics().get(ok, 0) >= 1, 10)
    assert calls.wait_quiet(3) == Counter()
    namespaces = 2
    asked = Counter(str(call) for call in calls.read())
    for kind in WATCHED:
        assert asked[f"watch {kind.plural}"] == namespaces
        # kopf's list, the sweep before the lead is taken, and the one that follows kopf's
        assert asked[f"list {kind.plural}"] <= 4 * namespaces
    assert set(asked) <= {
        *(f"{verb} {kind.plural}" for verb in ("list", "watch") for kind in WATCHED),
        *("get leases", "update leases", "get secrets", "get "),
    }


@pytest.mark.long
def test_every_right_that_is_granted_is_used_and_the_other_way_round(
    installation: Installation, audit: AuditLog, operator: OperatorProcess, kube: Kube
) -> None:
    """The rest of a fleet's life: a rollout whose old workers shrink, a pool that goes, a deletion."""
    kube.apply(make_manifest("budget", decode={"replicas": 3}))
    wait_ready(kube, "P 1/1 D 3/3")
    stuck = {"replicas": 1, "podTemplate": {"nodeSelector": {"no": "node"}}}
    kube.apply(make_manifest("budget", decode=stuck))
    wait_until(lambda: "patch deployments/scale" in audit.writes(), 20)
    for tokens in (16, 32, 48, 64, 80, 96):  # each a revision that is remembered, five of them for long
        kube.apply(make_manifest("budget", engine={"type": "sim", "maxModelLen": tokens}))
        wait_until(lambda: len(kube.list("controllerrevisions")) >= 2, 10)
    kube.run("label", "--overwrite", "wpool/budget-decode", "tandem.dev/pool=somebody-elses")
    wait_until(lambda: "delete controllerrevisions" in audit.writes(), 30)
    wait_until(lambda: "patch workerpools" in audit.writes(), 10)
    kube.apply(make_manifest("budget", prefill=None, decode={"replicas": 1}))
    wait_until(lambda: len(kube.list("wpool")) == 1, 30)
    kube.run("delete", "infd", "budget")
    operator.stop()
    region = {"apiVersion": "tandem.dev/v1alpha1", "kind": "InferenceRegion", "metadata": {"name": "us"}, "spec": {}}
    Kube(installation.cluster, installation.home).apply(region)
    with installation.replica("--region", "eu"):
        wait_until(lambda: "patch inferenceregions/status" in map(str, audit.read()), 30)
    asked = audit.read()
    assert {str(a) for a in asked if a.code == 403} == set()
    missing = {describe(access): left for access in ACCESS if (left := find_unused(access, asked, installation))}
    assert missing == UNUSED_HERE


def describe(access: Access) -> str:
    return "/".join(filter(None, (access.scope, access.kind.plural, access.subresource, *access.names)))


def find_unused(access: Access, asked: list[Asked], installation: Installation) -> set[str]:
    """Verbs and names of a rule that nobody asked for. A server-side apply that creates an object needs two verbs."""
    resource = "/".join(filter(None, (access.kind.plural, access.subresource)))
    place = installation.home if access.scope == Scope.HOME else installation.namespace
    here = [a for a in asked if a.resource == resource and a.namespace == place]
    used = {a.verb for a in here} | {"create" for a in here if a.verb == "patch" and a.code == 201}
    return ({*access.verbs} - used) | ({*access.names} - {a.name for a in here})
