"""An API server that forgets, refuses, crawls or goes away: what was asked for stands in the end, and quickly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.operator.conftest import Installation, Kube, OperatorProcess, make_manifest, wait_until
from integration.operator.etcd_alarm import no_space
from integration.operator.fault_proxy import Call, FaultProxy, Refusal, proxied

pytestmark = pytest.mark.integration

SMALL = {"prefill": None, "decode": {"replicas": 1}}


@pytest.fixture(scope="module")
def path(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FaultProxy, OperatorProcess]]:
    """One leading replica for the whole module, behind a proxy."""
    folder: Path = tmp_path_factory.mktemp("proxy")
    with proxied(installation, folder) as (proxy, seen), seen.replica() as operator:
        yield proxy, operator
        proxy.heal()


@pytest.fixture
def proxy(path: tuple[FaultProxy, OperatorProcess]) -> Iterator[FaultProxy]:
    yield path[0]
    path[0].heal()


@pytest.fixture
def operator(path: tuple[FaultProxy, OperatorProcess]) -> OperatorProcess:
    return path[1]


def is_complete(kube: Kube, fleet: str, ready: str) -> bool:
    """Whether the fleet has its workers, and its status says so of the present generation."""
    obj = kube.get("infd", fleet)
    status = obj.get("status", {})
    return bool(status.get("readyText") == ready and status["observedGeneration"] == obj["metadata"]["generation"])


def wait_complete(kube: Kube, fleet: str, ready: str, timeout_s: float = 30) -> None:
    wait_until(lambda: is_complete(kube, fleet, ready), timeout_s, lambda: str(kube.get("infd", fleet).get("status")))


def evictions(operator: OperatorProcess) -> float:
    return sum(v for k, v in operator.metrics().items() if k.startswith("tandem_operator_sweep_evictions_total"))


def test_deletions_that_fell_into_a_gap_of_the_watch_are_found(
    proxy: FaultProxy, operator: OperatorProcess, kube: Kube
) -> None:
    """410 Gone: kopf lists anew, and tells nobody what is missing. Two children went meanwhile."""
    kube.apply(make_manifest("gap", **SMALL))
    wait_complete(kube, "gap", "D 1/1")
    before = {kind: kube.get(kind, "gap-decode")["metadata"]["uid"] for kind in ("svc", "pdb")}
    evicted = evictions(operator)
    proxy.refuse = lambda call: Refusal(503) if call.is_watch else None
    proxy.cut_watches()
    time.sleep(0.5)
    for kind in before:
        kube.run("delete", kind, "gap-decode")
    proxy.expired = {"services", "poddisruptionbudgets"}
    proxy.refuse = lambda _: None

    def are_back() -> bool:
        found = {o["kind"]: o["metadata"]["uid"] for o in kube.list("svc,pdb", "tandem.dev/fleet=gap")}
        return len(found) == 2 and not set(found.values()) & set(before.values())

    wait_until(are_back, 20)
    assert evictions(operator) >= evicted + 2


@pytest.mark.long
def test_watches_that_break_all_the_time_lose_nothing(proxy: FaultProxy, operator: OperatorProcess, kube: Kube) -> None:
    kube.apply(make_manifest("broken", **SMALL))
    for replicas in (2, 3, 1, 4, 2):
        proxy.cut_watches()
        kube.apply(make_manifest("broken", prefill=None, decode={"replicas": replicas}))
        proxy.cut_watches()
        time.sleep(0.5)
    wait_complete(kube, "broken", "D 2/2")


@pytest.mark.long
def test_a_view_that_lags_behind_makes_no_second_child_and_no_early_deletion(
    proxy: FaultProxy, operator: OperatorProcess, kube: Kube
) -> None:
    """The operator does not see what becomes of its Deployments while it is asked to replace them."""
    kube.apply(make_manifest("lags", **SMALL))
    wait_complete(kube, "lags", "D 1/1")
    (old,) = kube.list("deploy", "tandem.dev/fleet=lags")
    proxy.held = {"deployments", "pods"}
    kube.apply(make_manifest("lags", **SMALL, engine={"type": "sim", "dtype": "float16"}))
    wait_until(lambda: len(kube.list("deploy", "tandem.dev/fleet=lags")) == 2, 10)
    time.sleep(3)
    names = {d["metadata"]["uid"] for d in kube.list("deploy", "tandem.dev/fleet=lags")}
    assert len(names) == 2
    assert old["metadata"]["uid"] in names
    proxy.heal()
    wait_until(lambda: len(kube.list("deploy", "tandem.dev/fleet=lags")) == 1, 20)
    wait_complete(kube, "lags", "D 1/1")


@pytest.mark.long
def test_a_server_that_refuses_for_want_of_room_is_left_alone_as_it_asks(
    proxy: FaultProxy, operator: OperatorProcess, kube: Kube
) -> None:
    """A storm of 429 with Retry-After; the fleet stands soon after it."""
    peace = {"Retry-After": "1"}
    proxy.refuse = lambda call: Refusal(429, "TooManyRequests", headers=peace) if call.is_write else None
    before = proxy.writes()
    kube.apply(make_manifest("storm", **SMALL))
    time.sleep(4)
    tried = proxy.writes() - before
    proxy.heal()
    wait_complete(kube, "storm", "D 1/1", 15)
    assert 1 <= tried <= 5 * 6  # a handful of attempts, each of a few children at once


def test_each_write_that_conflicts_once_is_made_again(proxy: FaultProxy, operator: OperatorProcess, kube: Kube) -> None:
    clashed: set[tuple[str, str]] = set()

    def clash_once(call: Call) -> Refusal | None:
        place = (call.method, call.path)
        if call.is_write and not call.is_of("events") and place not in clashed:
            clashed.add(place)
            return Refusal(
                409, "Conflict", "the object has been modified; please apply your changes to the latest version"
            )
        return None

    proxy.refuse = clash_once
    kube.apply(make_manifest("clash", **SMALL))
    wait_complete(kube, "clash", "D 1/1")
    assert len(clashed) >= 6


@pytest.mark.long
def test_a_slow_server_is_waited_for_and_the_lease_kept(
    proxy: FaultProxy, operator: OperatorProcess, kube: Kube
) -> None:
    proxy.delay_s = 1.5
    kube.apply(make_manifest("slow", **SMALL))
    wait_complete(kube, "slow", "D 1/1", 60)
    assert operator.is_leading()


@pytest.mark.long
def test_a_read_only_server_ends_the_tenure_and_nothing_else(
    proxy: FaultProxy, operator: OperatorProcess, kube: Kube
) -> None:
    """As when etcd has no leader: reads go on. Nobody may write, so nobody leads, until it heals."""
    proxy.refuse = lambda call: Refusal(500, message="etcdserver: no leader") if call.is_change else None
    kube.apply(make_manifest("readonly", **SMALL))
    wait_until(lambda: not operator.is_leading(), 20)
    before = proxy.writes()
    time.sleep(3)
    assert proxy.writes() == before
    proxy.heal()
    wait_complete(kube, "readonly", "D 1/1", 10)


@pytest.mark.long
@pytest.mark.parametrize("outage_s", [4.0, 20.0])
def test_after_an_outage_everything_is_as_asked_within_five_seconds(
    proxy: FaultProxy, operator: OperatorProcess, kube: Kube, capsys: pytest.CaptureFixture[str], outage_s: float
) -> None:
    """A change, a deletion and a drift happen while the operator is blind."""
    name = f"outage{outage_s:.0f}"
    kube.apply(make_manifest(name, **SMALL))
    wait_complete(kube, name, "D 1/1")
    proxy.is_away = True
    proxy.cut_watches()
    kube.apply(make_manifest(name, prefill=None, decode={"replicas": 3}))
    kube.run("delete", "svc", f"{name}-decode")
    time.sleep(outage_s)
    proxy.heal()
    began = time.monotonic()
    wait_until(lambda: kube.list("svc", f"tandem.dev/fleet={name}"), 30)
    wait_complete(kube, name, "D 3/3")
    took_s = time.monotonic() - began
    with capsys.disabled():
        print(f"\noperator: converged {took_s:.1f} s after an outage of {outage_s:.0f} s")
    assert took_s <= 5 + 3  # 3 s: the test's own polling, and pods that start


@pytest.mark.long
def test_an_etcd_that_is_full_stops_changes_and_no_worker(
    proxy: FaultProxy, operator: OperatorProcess, installation: Installation, kube: Kube
) -> None:
    """The alarm that etcd raises at its quota: every write of the real server fails until space is made."""
    kube.apply(make_manifest("full", **SMALL))
    wait_complete(kube, "full", "D 1/1")
    before = [pod["metadata"]["uid"] for pod in kube.list("pods", "tandem.dev/fleet=full")]
    kube.apply(make_manifest("later", **SMALL))
    with no_space(installation.cluster):
        wait_until(lambda: not operator.is_leading(), 20)
        assert [pod["metadata"]["uid"] for pod in kube.list("pods", "tandem.dev/fleet=full")] == before
        assert "ok" in operator.healthz()
    wait_complete(kube, "later", "D 1/1", 15)


def test_answers_that_are_garbled_are_asked_for_again(proxy: FaultProxy, operator: OperatorProcess, kube: Kube) -> None:
    """Bytes of a middlebox in place of JSON end neither the process nor the fleet."""
    garbled: set[str] = set()

    def garble_once(call: Call) -> Refusal | None:
        if call.is_change and call.path not in garbled:
            garbled.add(call.path)
            return Garbage(200)
        return None

    proxy.refuse = garble_once
    kube.apply(make_manifest("garbled", **SMALL))
    wait_complete(kube, "garbled", "D 1/1")
    assert len(garbled) >= 6


class Garbage(Refusal):
    """Not what a client of Kubernetes hopes for."""

    def to_response(self) -> Any:
        response = super().to_response()
        response.body = b"<html>It works!</html>"
        return response


def test_the_operator_lived_through_all_of_it(path: tuple[FaultProxy, OperatorProcess]) -> None:
    _, operator = path
    assert operator.process.poll() is None
    assert "ok" in operator.healthz()
    assert "reconciliation failed" not in operator.log.read_text()  # a fault of ours, told with its traceback
