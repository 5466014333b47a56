"""Events late, repeated, lost: the store holds the newest, and a sweep what is there."""

from __future__ import annotations

from typing import Any

from tandem_api import labels
from tandem_operator.control import take_event
from tandem_operator.kinds import DEPLOYMENT, INFERENCE_DEPLOYMENT, POD
from tandem_operator.model import Key
from tandem_operator.store import Store, Swept

FLEET = Key("team", "llama")


def make(name: str, version: int, uid: str = "", fleet: str | None = "llama", ns: str = "team") -> dict[str, Any]:
    marks = {labels.FLEET: fleet} if fleet else {}
    metadata = {"name": name, "namespace": ns, "uid": uid or name, "resourceVersion": str(version)}
    return {"metadata": {**metadata, "labels": marks, "managedFields": ["long"]}, "spec": {"x": version}, "status": {}}


def recorded() -> tuple[Store, list[Key]]:
    changed: list[Key] = []
    return Store(changed.append), changed


def test_an_older_version_is_no_news() -> None:
    store, changed = recorded()
    assert store.upsert(DEPLOYMENT, make("d", 5))
    assert not store.upsert(DEPLOYMENT, make("d", 5))
    assert not store.upsert(DEPLOYMENT, make("d", 4))
    assert changed == [FLEET]
    assert store.children(DEPLOYMENT, FLEET)["d"]["spec"] == {"x": 5}


def test_a_deleted_object_does_not_rise_again() -> None:
    store, _ = recorded()
    store.upsert(DEPLOYMENT, make("d", 5))
    assert store.remove(DEPLOYMENT, make("d", 6))
    assert not store.upsert(DEPLOYMENT, make("d", 5))
    assert store.children(DEPLOYMENT, FLEET) == {}
    assert store.upsert(DEPLOYMENT, make("d", 7, uid="anew"))


def test_a_late_deletion_of_a_namesake_spares_the_new_one() -> None:
    store, _ = recorded()
    store.upsert(DEPLOYMENT, make("d", 7, uid="anew"))
    assert not store.remove(DEPLOYMENT, make("d", 6, uid="old"))
    assert store.children(DEPLOYMENT, FLEET)


def test_a_sweep_evicts_what_is_gone_and_keeps_what_is_newer_than_the_list() -> None:
    store, changed = recorded()
    for name, version in (("gone", 3), ("stays", 4), ("newer", 12)):
        store.upsert(DEPLOYMENT, make(name, version))
    changed.clear()
    assert store.sweep(DEPLOYMENT, [make("stays", 4), make("missed", 8)], 10, None) == Swept([make("missed", 8)], 1)
    assert sorted(store.children(DEPLOYMENT, FLEET)) == ["missed", "newer", "stays"]
    assert changed == [FLEET, FLEET]


def test_a_sweep_of_one_namespace_leaves_the_others() -> None:
    store, _ = recorded()
    store.upsert(DEPLOYMENT, make("d", 1, ns="other"))
    assert store.sweep(DEPLOYMENT, [], 10, "team") == Swept([], 0)


def test_an_object_that_changes_its_fleet_leaves_the_old_one() -> None:
    store, changed = recorded()
    store.upsert(POD, make("p", 1))
    store.upsert(POD, make("p", 2, fleet="other"))
    assert store.children(POD, FLEET) == {}
    assert list(store.children(POD, Key("team", "other"))) == ["p"]
    assert changed == [FLEET, Key("team", "other")]


def test_a_fleet_is_its_own_and_a_routers_pod_nobodys() -> None:
    store, changed = recorded()
    store.upsert(INFERENCE_DEPLOYMENT, make("llama", 1, fleet=None))
    store.upsert(POD, make("router", 1, fleet=None))
    assert changed == [FLEET]
    assert store.fleets() == [FLEET]
    assert len(store.all(POD)) == 1


def test_pods_are_kept_without_their_spec_and_others_with_their_kind() -> None:
    store, _ = recorded()
    store.upsert(POD, make("p", 1))
    store.upsert(DEPLOYMENT, make("d", 1))
    assert "spec" not in store.children(POD, FLEET)["p"]
    kept = store.children(DEPLOYMENT, FLEET)["d"]
    assert (kept["kind"], kept["apiVersion"]) == ("Deployment", "apps/v1")
    assert "managedFields" not in kept["metadata"]


def test_pods_come_in_crowds_and_are_told_of_apart() -> None:
    changed: list[Key] = []
    crowded: list[Key] = []
    store = Store(changed.append, crowded.append)
    store.upsert(POD, make("p", 1))
    store.remove(POD, make("p", 2))
    assert (changed, crowded) == ([], [FLEET, FLEET])
    store.upsert(DEPLOYMENT, make("d", 1))
    assert (changed, crowded) == ([FLEET], [FLEET, FLEET])


def test_events_put_in_and_take_out() -> None:
    store, _ = recorded()
    take_event(store, DEPLOYMENT, "ADDED", make("d", 1))
    take_event(store, DEPLOYMENT, None, make("d", 2))
    assert store.children(DEPLOYMENT, FLEET)["d"]["spec"] == {"x": 2}
    take_event(store, DEPLOYMENT, "DELETED", make("d", 3))
    assert store.all(DEPLOYMENT) == []
