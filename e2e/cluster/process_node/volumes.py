"""A pod's volumes as folders: made before its containers start, refreshed while they run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cluster.process_node.atomic_files import FileContent, write_payload
from cluster.process_node.environment import expand
from cluster.process_node.fields import PodFields
from cluster.process_node.folders import PodFolders
from cluster.process_node.object_cache import ObjectCache
from cluster.process_node.objects import JsonObject, init_containers, main_containers, pod_namespace
from cluster.process_node.paths import PathMap, normal_mount_path, safe_sub_path
from cluster.process_node.tokens import TokenSource
from cluster.process_node.volume_payloads import (
    VolumeError,
    default_mode,
    downward_files,
    file_sources,
    object_files,
    token_file,
    volume_kind,
)

_OBJECT_KINDS = {"configMap": "ConfigMap", "secret": "Secret"}


class PodVolumes:
    def __init__(self, folders: PodFolders, cache: ObjectCache, tokens: TokenSource) -> None:
        self._folders = folders
        self._cache = cache
        self._tokens = tokens

    async def sync(self, fields: PodFields, max_age_s: float) -> None:
        """Makes or refreshes every volume that a container mounts.

        Raises VolumeError, FieldError, QuantityError, ApiError, ApiUnreachableError.
        """
        for volume in mounted_volumes(fields.pod):
            if volume_kind(volume) == "emptyDir":
                self._make_empty(volume)
            else:
                files = await self._files(volume, fields, max_age_s)
                write_payload(self._folders.volumes / volume["name"], files, datetime.now(UTC))

    def path_map(self, container: JsonObject, variables: Mapping[str, str]) -> PathMap:
        """Where the container's mount paths really are. Raises MountPathError.

        `variables` serve subPathExpr. A subPath that is not there yet becomes a folder, as in Kubernetes.
        """
        return PathMap(
            {
                normal_mount_path(mount["mountPath"]): str(self._mounted(mount, variables))
                for mount in container.get("volumeMounts") or []
            }
        )

    def _make_empty(self, volume: JsonObject) -> None:
        place = self._folders.volumes / volume["name"]
        if (volume.get("emptyDir") or {}).get("medium") != "Memory":
            place.mkdir(parents=True, exist_ok=True)
            return
        real = self._folders.memory / volume["name"]
        real.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(real)

    def _mounted(self, mount: JsonObject, variables: Mapping[str, str]) -> Path:
        place = self._folders.seen_by_programs(self._folders.volumes / mount["name"])
        sub_path = mount.get("subPath") or expand(mount.get("subPathExpr") or "", variables)
        if not sub_path:
            return place
        inside = place / safe_sub_path(sub_path)
        if not inside.exists():
            inside.mkdir(parents=True)
        return inside

    async def _files(self, volume: JsonObject, fields: PodFields, max_age_s: float) -> dict[str, FileContent]:
        files: dict[str, FileContent] = {}
        for source in file_sources(volume):
            files |= await self._source_files(source, fields, default_mode(volume), max_age_s)
        return files

    async def _source_files(
        self, source: JsonObject, fields: PodFields, mode: int, max_age_s: float
    ) -> dict[str, FileContent]:
        kind, detail = next(iter(source.items()))
        if kind == "downwardAPI":
            return downward_files(detail, fields, mode)
        if kind == "serviceAccountToken":
            return token_file(detail, await self._tokens.fetch(fields.pod, detail), mode)
        namespace = pod_namespace(fields.pod)
        obj = await self._cache.fetch(_OBJECT_KINDS[kind], namespace, detail["name"], max_age_s)
        return object_files(kind, detail, obj, mode)


def mounted_volumes(pod: JsonObject) -> list[JsonObject]:
    """The pod's volumes that some container mounts. Raises VolumeError for a mount without a volume."""
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
    names = [
        mount["name"]
        for container in [*init_containers(pod), *main_containers(pod)]
        for mount in container.get("volumeMounts") or []
    ]
    missing = [name for name in names if name not in volumes]
    if missing:
        raise VolumeError(f"volumeMounts name {missing[0]!r}, which spec.volumes does not have")
    return [volumes[name] for name in dict.fromkeys(names)]
