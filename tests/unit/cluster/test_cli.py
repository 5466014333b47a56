"""The command line says what it does, and fails in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cluster import cli
from cluster.cli import build_parser, build_spec, main
from cluster.places import places_from_environment
from cluster.spec import ClusterSpec, NodeCapacity


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    return tmp_path / "cache"


def test_flags_become_a_spec(tmp_path: Path) -> None:
    """Every setting can be chosen from the shell."""
    flags = "--name n --process-nodes 1 --kwok-nodes 2 --gpus 4 --cpu 8 --memory 9Gi --pods 5 --audit-log"
    options = build_parser().parse_args(["up", *flags.split(), "--image", "a/b:1=/v", "--image", "c=/w"])
    assert build_spec(options) == ClusterSpec(
        name="n",
        process_nodes=1,
        kwok_nodes=2,
        capacity=NodeCapacity(4, "8", "9Gi", 5),
        images={"a/b:1": Path("/v"), "c": Path("/w")},
        audit_log=True,
    )


def test_relative_environments_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process node runs in another folder."""
    monkeypatch.chdir(tmp_path)
    assert build_spec(build_parser().parse_args(["up", "--image", "a=.venv"])).images == {"a": tmp_path / ".venv"}


@pytest.mark.parametrize("text", ["a", "=b", "a=", ""])
def test_a_malformed_image_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message shows the form."""
    with pytest.raises(SystemExit):
        main(["up", "--image", text])
    assert "write NAME=FOLDER" in capsys.readouterr().err


def test_failures_are_one_line_with_status_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Never a traceback."""
    assert main(["up", "--name", "No"]) == 1
    assert capsys.readouterr().err.startswith("error: name: 'No' is not usable; take at most 30")
    assert main(["kubeconfig", "--name", "none"]) == 1
    want = "error: cluster none is not up; run 'python -m cluster up --name none'\n"
    assert capsys.readouterr().err == want


@pytest.mark.parametrize("command", ["up", "down", "kubeconfig"])
@pytest.mark.parametrize("name", ["Has Space", "../escape", "/", "", "-a", "a" * 31])
def test_a_name_that_could_lead_elsewhere_is_refused(
    command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Above all by down, which removes a folder of that name."""
    assert main([command, f"--name={name}"]) == 1
    assert capsys.readouterr().err.startswith(f"error: name: {name!r} is not usable; take at most 30")


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The variable that chooses it is in the message."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "file"))
    assert main(["up"]) == 1
    assert "TANDEM_CACHE must be a writable folder" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["0", "-1", "many"])
def test_an_impossible_number_of_jobs_is_refused(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Go's own message would not name our flag."""
    with pytest.raises(SystemExit):
        main(["build", f"--jobs={jobs}"])
    assert "write a number from 1" in capsys.readouterr().err


def test_down_of_nothing_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts may always call it."""
    assert main(["down", "--name", "none"]) == 0
    assert "there is no cluster none" in capsys.readouterr().err
    assert main(["down", "--all"]) == 0


def test_status_of_a_fresh_machine_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    """People are told the next step, programs get an empty list."""
    assert main(["status"]) == 0
    assert "no clusters" in capsys.readouterr().err
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_folder_without_a_record_is_shown_and_can_be_removed(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A crash in the very first moment is cleaned up like any other."""
    (cache / "run" / "half").mkdir(parents=True)
    (cache / "run" / "half" / "state.json").write_text('{"provider": "sou')
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "failed"
    assert main(["down", "--all"]) == 0
    assert not (cache / "run" / "half").exists()


@pytest.mark.parametrize(
    ("environment", "want"),
    [
        ({"TANDEM_CACHE": "/a/b"}, Path("/a/b")),
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/tandem")),
        ({"TANDEM_CACHE": "", "XDG_CACHE_HOME": ""}, Path.home().resolve() / ".cache" / "tandem"),
    ],
)
def test_the_cache_is_where_the_environment_says(environment: dict[str, str], want: Path) -> None:
    """TANDEM_CACHE wins, then XDG, then the home folder."""
    assert places_from_environment(environment).cache == want


def test_help_names_every_command_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """--help is where people start."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    listed = re.findall(r"^ {4}(\w+)\b", text, re.MULTILINE)
    assert listed == ["build", "up", "down", "status", "kubeconfig"]
    assert "export KUBECONFIG=$(python -m cluster kubeconfig)" in text
