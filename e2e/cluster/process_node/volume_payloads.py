"""What files a volume's sources become. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import PurePosixPath

from cluster.process_node.atomic_files import FileContent
from cluster.process_node.fields import PodFields
from cluster.process_node.objects import JsonObject

DEFAULT_MODE = 0o644
FOLDER_KINDS = ("emptyDir",)
FILE_KINDS = ("configMap", "secret", "downwardAPI", "projected")
PROJECTED_KINDS = ("configMap", "secret", "downwardAPI", "serviceAccountToken")


class VolumeError(ValueError):
    """A volume that cannot be given to the pod, now or ever; the message is for the pod's owner."""


def volume_kind(volume: JsonObject) -> str:
    """The one supported source of this volume. Raises VolumeError."""
    kinds = [kind for kind in volume if kind != "name"] or ["emptyDir"]
    if kinds[0] not in (*FOLDER_KINDS, *FILE_KINDS):
        raise VolumeError(
            f"volume {volume['name']!r}: {kinds[0]} is not supported by the process node; use "
            + ", ".join((*FOLDER_KINDS, *FILE_KINDS))
        )
    return kinds[0]


def file_sources(volume: JsonObject) -> list[JsonObject]:
    """The sources of a file volume in projected form. Raises VolumeError."""
    kind = volume_kind(volume)
    if kind == "projected":
        return [_checked(volume, source) for source in volume[kind].get("sources") or []]
    source = dict(volume[kind])
    if kind == "secret":  # a plain Secret volume says secretName where a projected one says name
        source["name"] = source.pop("secretName")
    return [{kind: source}]


def default_mode(volume: JsonObject) -> int:
    return int(volume[volume_kind(volume)].get("defaultMode") or DEFAULT_MODE)


def object_files(kind: str, source: JsonObject, obj: JsonObject | None, mode: int) -> dict[str, FileContent]:
    """Files of a ConfigMap (kind configMap) or Secret. Raises VolumeError for a missing object or key."""
    optional = bool(source.get("optional"))
    if obj is None:
        if optional:
            return {}
        raise VolumeError(f'{kind.lower()} "{source["name"]}" not found')
    data = object_data(obj)
    if not source.get("items"):
        return {key: FileContent(value, mode) for key, value in data.items()}
    return _chosen_files(kind, source, data, mode)


def object_data(obj: JsonObject) -> dict[str, bytes]:
    """The bytes of every key of a ConfigMap or Secret."""
    if obj.get("kind") == "Secret":
        return {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    texts = {key: value.encode() for key, value in (obj.get("data") or {}).items()}
    return texts | {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}


def downward_files(source: JsonObject, fields: PodFields, mode: int) -> dict[str, FileContent]:
    """Files of a downwardAPI source. Raises FieldError, QuantityError, VolumeError."""
    return {
        _safe(item["path"]): FileContent(_downward_text(item, fields).encode(), int(item.get("mode") or mode))
        for item in source.get("items") or []
    }


def token_file(source: JsonObject, token: str, mode: int) -> dict[str, FileContent]:
    return {_safe(source["path"]): FileContent(token.encode(), mode)}


def _checked(volume: JsonObject, source: JsonObject) -> JsonObject:
    for kind in source:
        if kind not in PROJECTED_KINDS:
            raise VolumeError(
                f"volume {volume['name']!r}: projected {kind} is not supported by the process node; use "
                + ", ".join(PROJECTED_KINDS)
            )
    return source


def _chosen_files(kind: str, source: JsonObject, data: Mapping[str, bytes], mode: int) -> dict[str, FileContent]:
    files = {}
    for item in source["items"]:
        if item["key"] in data:
            files[_safe(item["path"])] = FileContent(data[item["key"]], int(item.get("mode") or mode))
        elif not source.get("optional"):
            raise VolumeError(f"{kind} {source['name']!r} has no key {item['key']!r}")
    return files


def _downward_text(item: JsonObject, fields: PodFields) -> str:
    if "fieldRef" in item:
        return fields.field(item["fieldRef"]["fieldPath"])
    return fields.resource(item["resourceFieldRef"], "")


def _safe(path: str) -> str:
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).is_absolute() or ".." in parts or not parts or parts[0].startswith(".."):
        raise VolumeError(f"path {path!r} must be relative and must not contain or begin with '..'")
    return path
