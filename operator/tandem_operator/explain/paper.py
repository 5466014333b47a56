"""An API server of paper: it takes the operator's writes into a store and nowhere else."""

import copy
import itertools
from typing import Any

from tandem_operator.kinds import Kind, Manifest, kind_of
from tandem_operator.store import Store, version_of


class PaperCluster:
    """What `act` writes to. Objects get a uid and a version, as from a server; nobody runs what they ask for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        newest = max((version_of(obj) for obj in store.everything()), default=0)
        self._versions = itertools.count(newest + 1)

    async def apply(self, manifest: Manifest, manager: str, *, uid: str | None) -> Manifest:
        """The live object with what was applied merged in."""
        metadata = manifest["metadata"]
        live = self._store.get(kind_of(manifest), metadata["namespace"], metadata["name"]) if uid else None
        return self._stamp(_merge(copy.deepcopy(live or {}), manifest))

    async def merge(self, manifest: Manifest, manager: str, *, uid: str) -> Manifest:
        """As `apply`: on paper both are one."""
        return await self.apply(manifest, manager, uid=uid)

    async def create(self, manifest: Manifest, manager: str) -> Manifest:
        """A new object."""
        return self._stamp(copy.deepcopy(manifest))

    async def scale(self, kind: Kind, namespace: str, name: str, replicas: int, manager: str) -> None:
        """The object with another size."""
        live = copy.deepcopy(self._store.get(kind, namespace, name) or {})
        self._store.upsert(kind, self._stamp(_merge(live, {"spec": {"replicas": replicas}})))

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> Manifest:
        """Gone at once."""
        return {"kind": "Status"}

    def _stamp(self, obj: Manifest) -> Manifest:
        version = next(self._versions)
        born = {"uid": f"paper-{version}", "generation": 1}
        obj["metadata"] = {**born, **obj["metadata"], "resourceVersion": str(version)}
        return obj


def _merge(live: Any, applied: Any) -> Any:
    if isinstance(live, dict) and isinstance(applied, dict):
        return {**live, **{name: _merge(live.get(name), value) for name, value in applied.items()}}
    return applied
