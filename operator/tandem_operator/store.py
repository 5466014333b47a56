"""What the operator has seen of the cluster, by kind, and by fleet.

Events may be late, repeated, reordered or lost: an object never goes back to an older version, never rises again after
its deletion, and a sweep evicts what a full list no longer holds.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tandem_api import labels
from tandem_operator.kinds import INFERENCE_DEPLOYMENT, POD, Kind, Manifest
from tandem_operator.model import Key

_GRAVES = 20_000  # how many deletions are remembered against late events
_POD_METADATA = ("name", "namespace", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
_POD_ANNOTATIONS = (labels.DELETION_COST_ANNOTATION,)
_POD_STATUS = ("phase", "podIP", "conditions", "containerStatuses", "initContainerStatuses")

Name = tuple[str, str]  # namespace, name


@dataclass
class _Shelf:
    """Objects of one kind."""

    objects: dict[Name, Manifest] = field(default_factory=dict)
    by_fleet: dict[Key, dict[str, Manifest]] = field(default_factory=lambda: defaultdict(dict))


@dataclass(frozen=True)
class Swept:
    """What a sweep found that no event had told."""

    news: list[Manifest]
    evicted: int


class Store:
    """Objects of all watched kinds.

    Args:
        changed: called with the fleet of each object that changes.
        crowded: called in its place for pods, which come in crowds and change often: it may take its time.
    """

    def __init__(self, changed: Callable[[Key], None], crowded: Callable[[Key], None] | None = None) -> None:
        self._shelves: dict[Kind, _Shelf] = defaultdict(_Shelf)
        self._graves: OrderedDict[str, None] = OrderedDict()  # uids
        self._changed, self._crowded = changed, crowded or changed

    def upsert(self, kind: Kind, obj: Manifest) -> bool:
        """Takes in an object unless a newer one of its name, or its deletion, is known. True when it was news."""
        shelf, name = self._shelves[kind], _name(obj)
        known = shelf.objects.get(name)
        if obj["metadata"]["uid"] in self._graves or (known and version_of(obj) <= version_of(known)):
            return False
        if known:
            self._unindex(kind, known)
        kept = trim(kind, obj)
        shelf.objects[name] = kept
        key = fleet_of(kind, kept)
        if key:
            shelf.by_fleet[key][kept["metadata"]["name"]] = kept
            self._tell(kind, key)
        return True

    def remove(self, kind: Kind, obj: Manifest) -> bool:
        """Forgets a deleted object; one that was made anew under the same name stays. True when it was news."""
        uid = obj["metadata"]["uid"]
        self._graves[uid] = None
        if len(self._graves) > _GRAVES:
            self._graves.popitem(last=False)
        shelf = self._shelves[kind]
        known = shelf.objects.get(_name(obj))
        if known is None or known["metadata"]["uid"] != uid:
            return False
        del shelf.objects[_name(obj)]
        self._unindex(kind, known)
        key = fleet_of(kind, known)
        if key:
            self._tell(kind, key)
        return True

    def sweep(self, kind: Kind, listed: Iterable[Manifest], version: int, namespace: str | None) -> Swept:
        """Brings one kind to what a full list holds.

        Args:
            version: resourceVersion of the list; what is newer than it is kept.
            namespace: the namespace that was listed, None for all.
        """
        listed = list(listed)
        news = [obj for obj in listed if self.upsert(kind, obj)]
        names = {_name(obj) for obj in listed}
        gone = [
            obj
            for name, obj in self._shelves[kind].objects.items()
            if name not in names and version_of(obj) <= version and namespace in (None, name[0])
        ]
        return Swept(news, sum(self.remove(kind, obj) for obj in gone))

    def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """An object by name."""
        return self._shelves[kind].objects.get((namespace, name))

    def children(self, kind: Kind, key: Key) -> dict[str, Manifest]:
        """Objects of a fleet, by name."""
        return dict(self._shelves[kind].by_fleet.get(key, {}))

    def all(self, kind: Kind) -> list[Manifest]:
        """Every object of a kind."""
        return list(self._shelves[kind].objects.values())

    def everything(self) -> Iterator[Manifest]:
        """Every object of every kind."""
        return (obj for shelf in self._shelves.values() for obj in shelf.objects.values())

    def fleets(self) -> list[Key]:
        """Every fleet."""
        return [Key(*name) for name in self._shelves[INFERENCE_DEPLOYMENT].objects]

    def _tell(self, kind: Kind, key: Key) -> None:
        (self._crowded if kind == POD else self._changed)(key)

    def _unindex(self, kind: Kind, obj: Manifest) -> None:
        key = fleet_of(kind, obj)
        shelf = self._shelves[kind]
        if key in shelf.by_fleet:
            shelf.by_fleet[key].pop(obj["metadata"]["name"], None)
            if not shelf.by_fleet[key]:
                del shelf.by_fleet[key]


def fleet_of(kind: Kind, obj: Manifest) -> Key | None:
    """The fleet that an object belongs to, None for those of nobody (a router's pod)."""
    metadata = obj["metadata"]
    fleet = metadata["name"] if kind == INFERENCE_DEPLOYMENT else (metadata.get("labels") or {}).get(labels.FLEET)
    return Key(metadata["namespace"], fleet) if fleet else None


def version_of(obj: Manifest) -> int:
    """The resourceVersion, which the API server lets clients compare."""
    return int(obj["metadata"]["resourceVersion"])


def trim(kind: Kind, obj: Manifest) -> Manifest:
    """What decisions need of an object; pods are many, and most of a pod is its spec."""
    metadata = obj["metadata"]
    if kind == POD:
        status, notes = obj.get("status") or {}, metadata.get("annotations") or {}
        kept_notes = {name: notes[name] for name in _POD_ANNOTATIONS if name in notes}
        kept = {name: metadata[name] for name in _POD_METADATA if name in metadata}
        return {
            "metadata": kept | ({"annotations": kept_notes} if kept_notes else {}),
            "status": {name: status[name] for name in _POD_STATUS if name in status},
        }
    # Items of a list come without their kind.
    kept = {name: value for name, value in metadata.items() if name != "managedFields"}
    return {**obj, "apiVersion": kind.api_version, "kind": kind.name, "metadata": kept}


def _name(obj: Manifest) -> Name:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]
