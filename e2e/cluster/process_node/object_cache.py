"""ConfigMaps and Secrets that pods name: one GET serves all pods that ask about the same time."""

from __future__ import annotations

from collections.abc import Callable

from cluster.process_node.api import ApiClient
from cluster.process_node.objects import JsonObject

_PLURALS = {"ConfigMap": "configmaps", "Secret": "secrets"}


class ObjectCache:
    def __init__(self, api: ApiClient, clock_s: Callable[[], float]) -> None:
        self._api = api
        self._clock_s = clock_s
        self._kept: dict[tuple[str, str, str], tuple[float, JsonObject | None]] = {}

    async def fetch(self, kind: str, namespace: str, name: str, max_age_s: float) -> JsonObject | None:
        """The object, at most max_age_s old; None if there is none. Raises ApiError, ApiUnreachableError."""
        key = (kind, namespace, name)
        asked_at_s = self._clock_s()
        if key in self._kept and asked_at_s - self._kept[key][0] <= max_age_s:
            return self._kept[key][1]
        found = await self._api.find(f"/api/v1/namespaces/{namespace}/{_PLURALS[kind]}/{name}")
        self._kept[key] = (asked_at_s, None if found is None else {**found, "kind": kind})
        return self._kept[key][1]

    def forget_older_than(self, age_s: float) -> None:
        """Secrets shall not stay in memory after the pods that needed them."""
        oldest_s = self._clock_s() - age_s
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0] >= oldest_s}
