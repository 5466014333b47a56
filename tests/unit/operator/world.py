"""An API server, a controller-manager and nodes, as far as the operator's decisions depend on them.

It keeps what is applied, fills in defaults as the server does, and makes Deployments available one step at a time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from unit.operator.fleets import DEFAULTS, KEYS, make_fleet

from tandem_api import labels
from tandem_operator.kinds import Manifest
from tandem_operator.model import Action, Apply, CreatePool, Defaults, Delete, Fleet, Mark, RouterView, Scale, Snapshot
from tandem_operator.plan.fleet import plan_fleet
from tandem_operator.status.fleet import build_report

Place = tuple[str, str]  # kind, name
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """One fleet and all its children."""

    fleet: Fleet = field(default_factory=make_fleet)
    defaults: Defaults = DEFAULTS
    routers: RouterView = field(default_factory=RouterView)
    objects: dict[Place, Manifest] = field(default_factory=dict)
    pods: list[Manifest] = field(default_factory=list)
    now: datetime = START
    uids: int = 0
    writes: list[Action] = field(default_factory=list)

    def snapshot(self) -> Snapshot:
        """What the operator would observe."""
        return Snapshot(
            fleet=self.fleet,
            defaults=self.defaults,
            keys=KEYS,
            pools={pool["spec"]["role"]: pool for pool in self.of("WorkerPool")},
            revisions=tuple(self.of("ControllerRevision")),
            deployments=(*self.of("Deployment"), *self.of("LeaderWorkerSet")),
            services={s["metadata"]["name"]: s for s in self.of("Service")},
            budgets={b["metadata"]["name"]: b for b in self.of("PodDisruptionBudget")},
            policies={p["metadata"]["name"]: p for p in self.of("NetworkPolicy")},
            secret=next(iter(self.of("Secret")), None),
            pods=tuple(self.pods),
            routers=self.routers,
        )

    def of(self, kind: str) -> list[Manifest]:
        """All objects of a kind; like the store's, they are read and never changed."""
        return [obj for (k, _), obj in sorted(self.objects.items()) if k == kind]

    def deployments(self, role: str) -> list[Manifest]:
        """Deployments of one pool."""
        return [d for d in self.of("Deployment") if d["metadata"]["labels"][labels.POOL] == role]

    def edit(self, **spec: Any) -> None:
        """The user changes parts of the spec."""
        wire = {**self.fleet.spec.to_wire(), **spec}
        wire = {name: value for name, value in wire.items() if value is not None}
        parsed = type(self.fleet.spec).model_validate(wire)
        self.fleet = replace(self.fleet, spec=parsed, generation=self.fleet.generation + 1)

    def reconcile(self) -> list[Action]:
        """What the operator does until it has nothing to do, and its report. Returns the actions."""
        taken: list[Action] = []
        for _ in range(6):
            actions = plan_fleet(self.snapshot())
            if not actions:
                break
            for action in actions:
                self.take(action)
            taken += actions
        self.report()
        self.writes += taken
        return taken

    def report(self) -> None:
        """The operator writes the status."""
        self.fleet = replace(self.fleet, status=build_report(self.snapshot(), self.now).status)

    def take(self, action: Action) -> None:
        """One write reaches the API server."""
        match action:
            case Apply(manifest, _, uid):
                self._apply(manifest, uid)
            case CreatePool(manifest, _):
                assert ("WorkerPool", manifest["metadata"]["name"]) not in self.objects
                self._apply(manifest, None)
            case Scale(_, name, replicas, _, kind):
                self.objects[kind.name, name]["spec"]["replicas"] = replicas
            case Mark(_, name, uid, cost, _):
                (pod,) = [pod for pod in self.pods if pod["metadata"]["name"] == name]
                assert pod["metadata"]["uid"] == uid
                notes = {**pod["metadata"].get("annotations", {}), labels.DELETION_COST_ANNOTATION: cost}
                pod["metadata"]["annotations"] = {key: value for key, value in notes.items() if value is not None}
            case Delete(kind, _, name, uid, _):
                assert self.objects[kind.name, name]["metadata"]["uid"] == uid
                self._delete(kind.name, name)

    def _apply(self, manifest: Manifest, uid: str | None) -> None:
        place = (manifest["kind"], manifest["metadata"]["name"])
        live = self.objects.get(place)
        assert (live["metadata"]["uid"] if live else None) == uid
        merged = _merge(copy.deepcopy(live or {}), copy.deepcopy(manifest))
        if live is None:
            self.uids += 1
            merged["metadata"] |= {"uid": f"uid-{self.uids}", "creationTimestamp": self.now.isoformat()}
        changed = live is None or live.get("spec") != merged.get("spec")
        merged["metadata"]["generation"] = merged["metadata"].get("generation", 0) + changed
        self.objects[place] = _with_defaults(merged)

    def _delete(self, kind: str, name: str) -> None:
        uid = self.objects.pop((kind, name))["metadata"]["uid"]
        owned = [
            place
            for place, obj in self.objects.items()
            if any(owner["uid"] == uid for owner in obj["metadata"].get("ownerReferences", ()))
        ]
        for place in owned:
            self._delete(*place)

    def make_available(self, name: str) -> None:
        """The Deployment gets all its workers."""
        deployment = self.objects.get(("Deployment", name)) or self.objects["LeaderWorkerSet", name]
        size = deployment["spec"]["replicas"]
        deployment["status"] = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": size,
            "readyReplicas": size,
            "availableReplicas": size,
            "conditions": [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}],
        }

    def make_all_available(self) -> None:
        """Every Deployment gets all its workers."""
        for kind, name in list(self.objects):
            if kind in ("Deployment", "LeaderWorkerSet"):
                self.make_available(name)

    def settle(self, rounds: int = 40) -> None:
        """Time passes until nothing more happens. Fails when that never comes."""
        for _ in range(rounds):
            self.now += timedelta(seconds=1)
            before = self.fleet.status
            self.make_all_available()
            if not self.reconcile() and self.fleet.status == before:
                return
        raise AssertionError(f"it never settles: {plan_fleet(self.snapshot())}, {self.fleet.status.rollout}")


def is_kind(action: Action, kind: str) -> bool:
    """Whether an action is about a kind."""
    match action:
        case Apply(manifest) | CreatePool(manifest):
            return bool(manifest["kind"] == kind)
        case Delete(k) | Scale(kind=k):
            return k.name == kind
        case Mark():
            return kind == "Pod"
    raise AssertionError(action)


def _merge(live: Any, applied: Any) -> Any:
    """Server-side apply, where one manager owns everything that it ever applied."""
    if isinstance(live, dict) and isinstance(applied, dict):
        return {**live, **{key: _merge(live.get(key), value) for key, value in applied.items()}}
    return applied


def _with_defaults(obj: Manifest) -> Manifest:
    """What the server adds by itself; the operator must not mistake it for a difference."""
    if obj["kind"] == "Deployment":
        spec = obj["spec"]["template"]["spec"]
        spec.setdefault("restartPolicy", "Always")
        spec.setdefault("schedulerName", "default-scheduler")
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            container.setdefault("imagePullPolicy", "IfNotPresent")
            container.setdefault("terminationMessagePath", "/dev/termination-log")
            for port in container.get("ports", ()):
                port.setdefault("protocol", "TCP")
    if obj["kind"] == "Service":
        obj["spec"].setdefault("sessionAffinity", "None")
        for port in obj["spec"]["ports"]:
            port.setdefault("protocol", "TCP")
    return obj
