"""What the documents say of the repository is so: links, commands, manifests, names of metrics and reasons."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tandem_api.conditions import ConditionType, Reason
from tandem_api.v1alpha1 import InferenceDeployment
from tandem_operator.metrics import Metrics as OperatorMetrics
from tandem_operator.validate import find_problem

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("e2e/cluster/**/README.md")])
LINK = re.compile(r"\[[^\]]*\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)")
CODE_SPAN = re.compile(r"`([^`\n]+)`")
CODE_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"\bmake ([a-z0-9-]+)")
TARGET = re.compile(r"^([a-z0-9-]+):", re.MULTILINE)
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
TEST_FILE = re.compile(r"`((?:tests|e2e|bench)/[\w/]+\.py)(?:::(\w+))?`")


def names_of(documents: list[Path]) -> list[str]:
    return [str(document.relative_to(ROOT)) for document in documents]


def prose_of(text: str) -> str:
    """A document without its code."""
    return CODE_SPAN.sub("", CODE_FENCE.sub("", text))


def code_of(text: str) -> str:
    """Its code alone, blocks without their comments."""
    fences = (re.sub(r"#.*", "", fence) for fence in CODE_FENCE.findall(text))
    return "\n".join([*fences, *CODE_SPAN.findall(CODE_FENCE.sub("", text))])


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", CODE_FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def read_manifests(text: str) -> Iterator[dict[str, Any]]:
    """Every InferenceDeployment in a stream of YAML documents."""
    for document in yaml.safe_load_all(text):
        if isinstance(document, dict) and document.get("kind") == "InferenceDeployment":
            yield document


def list_manifests() -> list[Any]:
    """(where it stands, manifest) of every InferenceDeployment in examples and documents."""
    texts = [(path, path.read_text()) for path in sorted((ROOT / "examples").glob("*.yaml"))]
    texts += [(path, block) for path in DOCUMENTS for block in YAML_BLOCK.findall(path.read_text())]
    return [
        pytest.param(manifest, id=f"{path.relative_to(ROOT)}:{manifest['metadata']['name']}")
        for path, text in texts
        for manifest in read_manifests(text)
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    """Also the part after the #, which must be a heading there."""
    for target, anchor in LINK.findall(prose_of(document.read_text())):
        place = (document.parent / target) if target else document
        assert place.exists(), f"{target} does not exist"
        if anchor:
            assert anchor[1:] in anchors_of(place.read_text()), f"{target}{anchor} is no heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    """A reader who types it gets what is promised."""
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    assert set(MAKE.findall(code_of(document.read_text()))) <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_every_test_that_is_cited_exists(document: Path) -> None:
    """A claim that cites a test is worth as much as the test."""
    for file, name in TEST_FILE.findall(document.read_text()):
        assert (ROOT / file).is_file(), f"{file} does not exist"
        if name:
            assert f"def {name}(" in (ROOT / file).read_text(), f"{file} has no {name}"


@pytest.mark.parametrize("manifest", list_manifests())
def test_every_manifest_that_is_shown_would_be_accepted(manifest: dict[str, Any]) -> None:
    """By the model, by the operator's own checks, and with no key that the schema would drop in silence."""
    read = InferenceDeployment.model_validate(manifest)
    assert find_problem(read.spec) is None
    kept = read.spec.to_wire()
    assert list(find_unknown(manifest["spec"], kept)) == []


def find_unknown(written: dict[str, Any], kept: dict[str, Any], path: str = "spec") -> Iterator[str]:
    """Paths that were written and are not in what the model kept."""
    for key, value in written.items():
        if key not in kept:
            yield f"{path}.{key}"
        elif isinstance(value, dict) and isinstance(kept[key], dict):
            yield from find_unknown(value, kept[key], f"{path}.{key}")


def test_yaml_in_the_documents_can_be_read() -> None:
    """A block that does not parse cannot be applied."""
    blocks = [block for document in DOCUMENTS for block in YAML_BLOCK.findall(document.read_text())]
    assert len(blocks) > 5
    for block in blocks:
        assert list(yaml.safe_load_all(block))


def test_the_reference_is_what_the_models_say() -> None:
    """`python tools/reference.py` was run after the last change of a model."""
    done = subprocess.run([sys.executable, "tools/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_stale_reference_is_noticed_and_written(tmp_path: Path) -> None:
    """--check fails on a page that differs, and writing it mends that."""
    command = [sys.executable, str(ROOT / "tools" / "reference.py"), "--root", str(tmp_path)]
    page = tmp_path / "docs" / "reference.md"
    page.parent.mkdir()
    page.write_text("old")
    assert subprocess.run([*command, "--check"], capture_output=True).returncode == 1
    assert subprocess.run(command).returncode == 0
    assert page.read_text() == (ROOT / "docs" / "reference.md").read_text()


def test_every_reason_is_explained() -> None:
    """Whoever sees a reason in a condition finds it in the failure modes."""
    text = (ROOT / "docs" / "failure-modes.md").read_text()
    named = set(re.findall(r"[`/]([A-Z]\w+)`", text))
    assert {reason.value for reason in Reason} - named == set()


def test_every_error_code_is_explained() -> None:
    """Whoever gets an error from the router finds its code."""
    sources = "".join(path.read_text() for path in (ROOT / "router" / "tandem_router").rglob("*.py"))
    codes = set(re.findall(r'\bcode="([a-z_]+)"', sources))
    assert len(codes) > 20
    text = (ROOT / "docs" / "failure-modes.md").read_text()
    assert {code for code in codes if f"`{code}`" not in text} == set()


def test_every_condition_is_explained() -> None:
    """Whoever sees a condition finds what it means."""
    text = (ROOT / "docs" / "concepts.md").read_text()
    assert [kind.value for kind in ConditionType if f"`{kind.value}`" not in text] == []


def test_every_metric_that_is_named_is_exported_and_the_other_way_round() -> None:
    """The table of metrics in the operations guide is the truth, for each plane."""
    text = (ROOT / "docs" / "operations.md").read_text()
    named = {plane: set(re.findall(rf"^\| `(tandem_{plane}_\w+)`", text, re.MULTILINE)) for plane in EXPORTED}
    for plane, read in EXPORTED.items():
        assert named[plane] == read()


def read_operator_metrics() -> set[str]:
    return read_families(OperatorMetrics().render().decode())


def read_router_metrics() -> set[str]:
    from prometheus_client import CollectorRegistry, generate_latest

    from tandem_router import exposition
    from tandem_router.fleets import Capacity, Catalog
    from tandem_router.gateway.service import Gateway
    from tandem_router.metrics import Metrics
    from tandem_router.regions.atlas import Atlas
    from tandem_router.regions.exposition import RegionCollector
    from tandem_router.regions.load import FleetLoad
    from tandem_router.regions.tally import RegionTally
    from tandem_router.snapshot import RegionSpec

    page = exposition.render(Metrics(), Catalog(Capacity()), 0.0, Gateway(None, lambda: 0.0))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RegionCollector(Atlas(RegionSpec("eu"), lambda _key, _now_s: FleetLoad()), RegionTally(), 0.0))
    return read_families((page + generate_latest(registry)).decode())


def read_worker_metrics() -> set[str]:
    from tandem_api.worker import Role, WorkerState
    from tandem_worker.kv_ranks import KVReport
    from tandem_worker.metrics import render_metrics

    state = WorkerState(fleet="a/b", role=Role.DECODE, kv_revision="k", instance="i", ready=True, draining=False)
    return read_families(render_metrics(state, KVReport(answering=True)).decode())


def read_families(exposition: str) -> set[str]:
    """Names of the metric families; prometheus_client's `_created` companions are its own affair."""
    found = re.findall(r"^# TYPE (\w+) \w+$", exposition, re.MULTILINE)
    return {name for name in found if not name.endswith("_created")}


EXPORTED = {"operator": read_operator_metrics, "router": read_router_metrics, "worker": read_worker_metrics}
