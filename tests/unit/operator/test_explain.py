"""`tandem explain`: the operator's own plan, printed and not carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from unit.operator.fleets import make_fleet, make_spec
from unit.operator.world import World

from tandem_cli.app import main

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def write(path: Path, *documents: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


def build_manifest(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": "llama", "namespace": "team"},
        "spec": make_spec(**spec).to_wire(),
    }


def dump(world: World) -> dict[str, Any]:
    """What `kubectl get … -o yaml` would print of a fleet and its children."""
    fleet = world.fleet
    metadata = {"name": "llama", "namespace": "team", "uid": fleet.uid, "generation": 1, "resourceVersion": "7"}
    obj = {**build_manifest(), "metadata": metadata, "status": fleet.status.to_wire()}
    children = [
        {**child, "metadata": {**child["metadata"], "resourceVersion": "8"}}
        for (kind, _), child in world.objects.items()
        if kind != "Secret"
    ]
    return {"apiVersion": "v1", "kind": "List", "items": [obj, *children]}


@pytest.fixture
def serving() -> World:
    world = World(make_fleet(make_spec()))
    world.reconcile()
    world.settle()
    return world


def explain(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["explain", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("example", ["llama-70b", "quickstart", "single", "sim"])
def test_the_birth_of_every_example_is_told_to_its_deployments(
    capsys: pytest.CaptureFixture[str], example: str
) -> None:
    code, out, _ = explain(capsys, "-f", str(EXAMPLES / f"{example}.yaml"))
    assert code == 0
    assert f"create WorkerPool {example}-decode: the decode pool does not exist" in out
    assert f"create Deployment {example}-decode-" in out
    assert "Ready=False PoolStarting" in out


def test_a_fleet_at_rest_needs_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path, serving: World) -> None:
    wanted, state = write(tmp_path / "cr.yaml", build_manifest()), write(tmp_path / "state.yaml", dump(serving))
    code, out, _ = explain(capsys, "-f", wanted, "--state", state)
    assert (code, "plan: nothing to do" in out, "Ready=True" in out) == (0, True, True), out


def test_an_edit_is_told_with_what_it_replaces(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, serving: World
) -> None:
    wanted = write(tmp_path / "cr.yaml", build_manifest(decode={"replicas": 3}))
    code, out, _ = explain(capsys, "-f", wanted, "--state", write(tmp_path / "state.yaml", dump(serving)))
    assert code == 0
    assert "generation 2" in out
    assert "scale WorkerPool llama-decode to 3" in out
    assert "create Deployment" not in out
    wanted = write(tmp_path / "cr.yaml", build_manifest(engine={"quantization": "fp8"}))
    _, out, _ = explain(capsys, "-f", wanted, "--state", str(tmp_path / "state.yaml"))
    assert "create Deployment llama-prefill-" in out
    assert "create Deployment llama-decode-" in out


def test_a_spec_that_would_stall_ends_with_1_and_the_fix(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest = build_manifest(engine={"extraArgs": ["--tensor-para=4"]})
    code, out, _ = explain(capsys, "-f", write(tmp_path / "cr.yaml", manifest))
    assert code == 1
    assert "Stalled=True InvalidSpec" in out
    assert "set parallelism.tensor" in out


def test_a_spec_that_cannot_be_read_is_told_by_field(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest = build_manifest()
    manifest["spec"]["decode"]["replicas"] = "many"
    code, out, _ = explain(capsys, "-f", write(tmp_path / "cr.yaml", manifest))
    assert (code, "spec.decode.replicas" in out) == (1, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: Pod\nmetadata: {name: a}\n", "holds no InferenceDeployment"),
        ("", "holds no InferenceDeployment"),
        ("[1, 2]", "has no kind"),
        ("kind: InferenceDeployment\n", "has no metadata.name"),
        ("a: [", "give a file of Kubernetes manifests"),
        ("\x00", "give a file of Kubernetes manifests"),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "cr.yaml"
    path.write_text(text)
    code, _, error = explain(capsys, "-f", str(path))
    assert code == 2
    assert words in error
    assert "Traceback" not in error


def test_live_without_a_cluster_says_how_to_name_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    code, _, error = explain(capsys, "-f", write(tmp_path / "cr.yaml", build_manifest()), "--live")
    assert (code, "KUBECONFIG" in error) == (2, True)


def test_a_region_that_is_listed_is_told_its_plan_and_another_that_it_has_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chat = str(EXAMPLES / "regions" / "chat.yaml")
    code, out, _ = explain(capsys, "-f", chat, "--region", "eu")
    assert (code, "create Deployment chat-decode-" in out) == (0, True), out
    code, out, _ = explain(capsys, "-f", chat, "--region", "br")
    assert (code, "plan: nothing to do" in out) == (0, True), out
    assert "Ready=True NotInThisRegion: spec.regions does not list br" in out


def test_without_its_name_an_installation_is_stalled_by_a_list_of_regions(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = explain(capsys, "-f", str(EXAMPLES / "regions" / "chat.yaml"))
    assert code == 1
    assert "Stalled=True InvalidSpec: spec.regions: this installation has no name" in out


def test_a_fleet_that_leaves_a_region_is_told_to_let_its_workers_go(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, serving: World
) -> None:
    wanted = write(tmp_path / "cr.yaml", build_manifest(regions=[{"name": "us"}]))
    state = write(tmp_path / "state.yaml", dump(serving))
    code, out, _ = explain(capsys, "-f", wanted, "--state", state, "--region", "eu")
    assert code == 0
    assert "delete Deployment llama-decode-" in out
    assert "delete WorkerPool llama-prefill: spec.regions does not list this region" in out


def test_a_region_that_cannot_be_is_a_wrong_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["explain", "-f", "x", "--region", "EU"])
    assert "'EU' is no region's name" in capsys.readouterr().err
