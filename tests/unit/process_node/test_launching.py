"""What process a container becomes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster.process_node.environment import ConfigurationError
from cluster.process_node.images import Image
from cluster.process_node.launching import SERVICE_ACCOUNT_MOUNT, Surroundings, build_launch
from cluster.process_node.objects import JsonObject
from cluster.process_node.paths import PathMap
from cluster.process_node.processes import Launch, LaunchError

IMAGE = Image("a", Path(sys.prefix), {"FROM_IMAGE": "1", "PYTHONPATH": "/models"}, ("python", "-m", "app"))
PATHS = PathMap({"/models": "/r/m", SERVICE_ACCOUNT_MOUNT: "/r/sa"})


def launch(container: JsonObject, tmp_path: Path, **env: str) -> Launch:
    around = Surroundings(Path("/root-of-node"), "process://1", tmp_path, "127.0.0.1", 6443, "pod-1", {"LANG": "C"})
    return build_launch({"name": "c", **container}, IMAGE, env, PATHS, around)


def test_the_entry_point_serves_a_container_without_command(tmp_path: Path) -> None:
    made = launch({"args": ["--dir=/models"]}, tmp_path)
    assert made.argv == [f"{sys.prefix}/bin/python", "-m", "app", "--dir=/r/m"]


def test_command_replaces_the_entry_point_and_both_expand_variables(tmp_path: Path) -> None:
    made = launch({"command": ["sh", "$(A)"], "args": ["$(KUBERNETES_SERVICE_PORT)", "$$(A)"]}, tmp_path, A="/models/x")
    assert made.argv[1:] == ["/r/m/x", "6443", "$(A)"]


def test_the_environment_is_the_images_then_the_pods_then_the_nodes(tmp_path: Path) -> None:
    env = launch({}, tmp_path, FROM_IMAGE="2", LIB="/lib:/models/x", TANDEM_PROCESS_NODE="forged").env
    assert env["FROM_IMAGE"] == "2"
    assert env["LIB"] == "/lib:/r/m/x"
    assert env["PYTHONPATH"] == "/models", "the image's own paths are real ones"
    assert env["TANDEM_PROCESS_NODE"] == "/root-of-node"
    assert env["TANDEM_SERVICEACCOUNT_DIR"] == "/r/sa"
    assert (env["HOSTNAME"], env["LANG"], env["TMPDIR"]) == ("pod-1", "C", str(tmp_path / "tmp"))


def test_nothing_of_the_nodes_own_environment_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_NODE", "x")
    assert "SECRET_OF_NODE" not in launch({}, tmp_path).env


def test_a_program_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="'nonesuch': executable file not found"):
        launch({"command": ["nonesuch"]}, tmp_path)


def test_neither_command_nor_entry_point_is_refused(tmp_path: Path) -> None:
    around = Surroundings(tmp_path, "1", tmp_path, "h", 1, "p", {})
    with pytest.raises(ConfigurationError, match="no entrypoint and the container no command"):
        build_launch({"name": "c"}, Image("bare", Path(sys.prefix)), {}, PATHS, around)


@pytest.mark.parametrize(
    ("asked", "want"), [(None, "work"), ("/models", "work/models"), ("/opt/not-here", "work/opt/not-here")]
)
def test_a_working_folder_that_is_not_here_is_one_of_the_containers_own(
    tmp_path: Path, asked: str | None, want: str
) -> None:
    assert launch({"workingDir": asked}, tmp_path).cwd == tmp_path / want


def test_a_working_folder_that_is_here_is_taken(tmp_path: Path) -> None:
    assert launch({"workingDir": "/usr"}, tmp_path).cwd == Path("/usr")
