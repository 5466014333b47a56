"""Sources of volumes become files, or a refusal that names what is missing."""

from __future__ import annotations

import base64

import pytest
from unit.process_node.pods import make_pod

from cluster.process_node.atomic_files import FileContent
from cluster.process_node.fields import PodFields
from cluster.process_node.objects import JsonObject
from cluster.process_node.volume_payloads import (
    VolumeError,
    default_mode,
    downward_files,
    file_sources,
    object_files,
    volume_kind,
)
from cluster.process_node.volumes import mounted_volumes

SECRET = {"kind": "Secret", "data": {"key": base64.b64encode(b"\x00raw").decode(), "kid": "MQ=="}}
CONF = {"kind": "ConfigMap", "data": {"a": "ä"}, "binaryData": {"b": "AA=="}}


def test_every_key_is_a_file_unless_items_choose() -> None:
    assert object_files("secret", {"name": "s"}, SECRET, 0o644) == {
        "key": FileContent(b"\x00raw", 0o644),
        "kid": FileContent(b"1", 0o644),
    }
    items = {"name": "s", "items": [{"key": "kid", "path": "deep/id", "mode": 0o400}]}
    assert object_files("secret", items, SECRET, 0o644) == {"deep/id": FileContent(b"1", 0o400)}


def test_a_config_map_has_text_and_binary_keys() -> None:
    files = object_files("configMap", {"name": "c"}, CONF, 0o644)
    assert {name: file.data for name, file in files.items()} == {"a": "ä".encode(), "b": b"\x00"}


def test_what_is_missing_is_named_unless_it_is_optional() -> None:
    with pytest.raises(VolumeError, match='secret "s" not found'):
        object_files("secret", {"name": "s"}, None, 0o644)
    assert object_files("secret", {"name": "s", "optional": True}, None, 0o644) == {}
    items: JsonObject = {"name": "s", "items": [{"key": "no", "path": "p"}]}
    with pytest.raises(VolumeError, match="secret 's' has no key 'no'"):
        object_files("secret", items, SECRET, 0o644)
    assert object_files("secret", {**items, "optional": True}, SECRET, 0o644) == {}


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x", "..data", ""])
def test_a_path_that_leaves_the_volume_is_refused(path: str) -> None:
    with pytest.raises(VolumeError, match="must be relative"):
        object_files("secret", {"name": "s", "items": [{"key": "kid", "path": path}]}, SECRET, 0o644)


def test_plain_and_projected_volumes_have_the_same_sources() -> None:
    plain = {"name": "v", "secret": {"secretName": "s", "defaultMode": 0o400}}
    projected = {"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}]}}
    assert file_sources(plain)[0]["secret"]["name"] == file_sources(projected)[0]["secret"]["name"] == "s"
    assert (default_mode(plain), default_mode(projected)) == (0o400, 0o644)


@pytest.mark.parametrize("kind", ["hostPath", "persistentVolumeClaim", "csi", "nfs", "image"])
def test_other_kinds_are_refused_with_the_known_ones(kind: str) -> None:
    with pytest.raises(VolumeError, match=f"{kind} is not supported .* use emptyDir, configMap"):
        volume_kind({"name": "v", kind: {}})


def test_an_unknown_projected_source_is_refused() -> None:
    with pytest.raises(VolumeError, match="projected clusterTrustBundle is not supported"):
        file_sources({"name": "v", "projected": {"sources": [{"clusterTrustBundle": {}}]}})


def test_downward_files_hold_fields_and_resources() -> None:
    container = {"name": "main", "resources": {"limits": {"cpu": "1500m"}}}
    fields = PodFields(make_pod(container), "127.9.0.5", "127.0.0.1", {})
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "cpu", "mode": 0o400, "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu"}},
    ]
    assert downward_files({"items": items}, fields, 0o644) == {
        "labels": FileContent(b'app="x"\ntandem.dev/role="decode"', 0o644),
        "cpu": FileContent(b"2", 0o400),
    }


def test_only_mounted_volumes_are_made_and_an_unknown_one_is_named() -> None:
    mounts = {"name": "main", "volumeMounts": [{"name": "a", "mountPath": "/a"}]}
    assert mounted_volumes(make_pod(mounts, volumes=[{"name": "a"}, {"name": "b", "hostPath": {}}])) == [{"name": "a"}]
    with pytest.raises(VolumeError, match="volumeMounts name 'a'"):
        mounted_volumes(make_pod(mounts))
