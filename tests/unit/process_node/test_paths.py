"""Mount paths inside texts become the pod's real folders, and nothing else changes."""

from __future__ import annotations

import pytest

from cluster.process_node.paths import MountPathError, PathMap, normal_mount_path, safe_sub_path

PATHS = PathMap({"/models": "/r/v/m", "/models/big": "/r/v/b", "/tmp": "/r/v/t"})


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("/models", "/r/v/m"),
        ("/models/", "/r/v/m/"),
        ("/models/a.json", "/r/v/m/a.json"),
        ("/models/big/x", "/r/v/b/x"),
        ("--path=/models/a", "--path=/r/v/m/a"),
        ("/lib:/models:/tmp/x", "/lib:/r/v/m:/r/v/t/x"),
        ('{"dir": "/models", "t": ["/tmp"]}', '{"dir": "/r/v/m", "t": ["/r/v/t"]}'),
        ("cat /models/a>/tmp/b", "cat /r/v/m/a>/r/v/t/b"),
        ("file:///models/a", "file:///r/v/m/a"),
        ("@/models/a", "@/r/v/m/a"),
    ],
)
def test_a_mount_path_is_rewritten_wherever_a_path_may_stand(text: str, want: str) -> None:
    assert PATHS.rewrite(text) == want


@pytest.mark.parametrize(
    "text",
    ["/modelsx", "/models-2", "/models.json", "/x/models", "x/models", "hf://models", "https://h/models/a",
     "$(ROOT)/models", "${ROOT}/models", "../models", "/var/tmp", "~/tmp", ""],
)  # fmt: skip
def test_what_only_looks_like_a_mount_path_stays(text: str) -> None:
    assert PATHS.rewrite(text) == text


def test_a_real_path_that_begins_with_a_mount_path_is_not_rewritten_again() -> None:
    paths = PathMap({"/tmp": "/tmp/node/v/t", "/data": "/tmp/node/v/d"})
    assert paths.rewrite("/tmp/a:/data/b") == "/tmp/node/v/t/a:/tmp/node/v/d/b"


def test_without_mounts_nothing_changes() -> None:
    assert PathMap({}).rewrite("/models/a") == "/models/a"


@pytest.mark.parametrize(("path", "want"), [("/a/", "/a"), ("//a//b", "/a/b"), ("/a/./b", "/a/b")])
def test_mount_paths_are_normalised(path: str, want: str) -> None:
    assert normal_mount_path(path) == want


@pytest.mark.parametrize("path", ["/", "relative", "", "/a/../b"])
def test_a_mount_path_that_cannot_be_mapped_is_refused(path: str) -> None:
    with pytest.raises(MountPathError, match="absolute path"):
        normal_mount_path(path)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../b"])
def test_a_sub_path_that_leaves_its_volume_is_refused(path: str) -> None:
    with pytest.raises(MountPathError, match="leaves its volume"):
        safe_sub_path(path)
