"""Builds are keyed by content, published whole or not at all, and fail in one sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cluster.build import Builder, build_families, build_family, find_missing, read_lines_or_ticks
from cluster.errors import ClusterError
from cluster.families import FAMILIES, MODULES, Family, Program, build_kubernetes_stamps, read_pinned_version
from cluster.golang import Toolchain
from cluster.places import Places
from cluster.progress import Progress, build_silent_progress

# Behaves as `go` does towards the builder: lists packages, "compiles" by writing the output file.
FAKE_GO = """#!{python} -S
import os, pathlib, sys, time
arguments = sys.argv[1:]
home = pathlib.Path(__file__).parent
with (home / "calls").open("a") as calls:
    calls.write(" ".join(arguments) + "|" + os.environ["GOFLAGS"] + "|" + os.getcwd() + "\\n")
if (home / "failure").exists():
    sys.exit((home / "failure").read_text())
if arguments[:2] == ["list", "-deps"]:
    print("go: downloading example.org/m v1.0.0", file=sys.stderr)
    print("fmt\\nexample.org/m")
elif arguments[:2] == ["list", "-m"]:
    print(home)
else:
    time.sleep(0.05)
    print("fmt\\nexample.org/m", file=sys.stderr)
    pathlib.Path(arguments[arguments.index("-o") + 1]).write_text("program")
"""


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    go = tmp_path / "go"
    go.write_text(FAKE_GO.format(python=sys.executable))
    go.chmod(0o755)
    return Builder(Places(tmp_path / "cache"), Toolchain("go1.26.8 test/fake", go))


def calls(builder: Builder) -> list[str]:
    record = builder.toolchain.executable.parent / "calls"
    return record.read_text().splitlines() if record.exists() else []


def fail_with(builder: Builder, message: str) -> None:
    (builder.toolchain.executable.parent / "failure").write_text(message)


def test_a_build_is_done_once(builder: Builder) -> None:
    """The second time everything is there, and Go is not even asked."""
    assert find_missing(builder, ["etcd", "helm"]) == ["etcd", "helm"]
    folders = build_families(builder, ["etcd"], build_silent_progress())
    assert (folders["etcd"] / "etcd").read_text() == "program"
    before = calls(builder)
    assert build_families(builder, ["etcd"], build_silent_progress()) == folders
    assert calls(builder) == before
    assert find_missing(builder, ["etcd", "helm"]) == ["helm"]


def test_go_runs_offline_of_the_users_settings_in_the_pinned_module(builder: Builder) -> None:
    """Pins cannot be changed by a build, whatever GOFLAGS the user has."""
    build_family(replace(builder, jobs=3), FAMILIES["etcd"], build_silent_progress())
    listing, compilation = calls(builder)
    assert listing == f"list -deps go.etcd.io/etcd/server/v3|-mod=readonly|{MODULES / 'etcd'}"
    assert compilation.startswith("build -v -trimpath -buildvcs=false -p 3 -ldflags -s -w -o ")


def test_the_multi_call_binary_answers_to_all_its_names(builder: Builder) -> None:
    """Links are relative, so that the cache can be moved."""
    folder = build_family(builder, FAMILIES["kube"], build_silent_progress())
    assert (folder / "kubectl").readlink() == Path("kubeall")
    assert {path.name for path in folder.iterdir()} == set(FAMILIES["kube"].outputs())


def test_files_of_a_module_are_put_together(builder: Builder) -> None:
    """KWOK's stages come from the very module that KWOK is built from."""
    for stage in FAMILIES["kwok"].files[0].parts:
        path = builder.toolchain.executable.parent / stage
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"stage: {path.stem}\n")
    folder = build_family(builder, FAMILIES["kwok"], build_silent_progress())
    assert (folder / "kwok-stages.yaml").read_text().count("---\nstage: ") == 5


def test_builders_at_the_same_time_compile_once(builder: Builder) -> None:
    """The lock makes the others wait for the first, and use what it made."""
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(build_family, builder, FAMILIES["etcd"], build_silent_progress()) for _ in range(4)]
    assert len({job.result() for job in jobs}) == 1
    assert len(calls(builder)) == 2


def test_the_remains_of_a_killed_build_do_no_harm(builder: Builder) -> None:
    """A partial folder is never taken for a finished one."""
    partial = builder.places.binaries / ".etcd.partial"
    partial.mkdir(parents=True)
    (partial / "etcd").write_text("half")
    folder = build_family(builder, FAMILIES["etcd"], build_silent_progress())
    assert (folder / "etcd").read_text() == "program"
    assert not partial.exists()


@pytest.mark.parametrize(
    ("output", "want"),
    [
        ("verifying x@v1: checksum mismatch", "etcd: a downloaded Go module does not match its pinned checksum"),
        (
            "go: k8s.io/x@v1.2.3: reading https://m/x: 403 Forbidden",
            "etcd: the module source refused k8s.io/x@v1.2.3; pin a version that it serves",
        ),
        ("dial tcp: lookup m: no such host", "etcd: Go modules could not be downloaded; check the network"),
        ("write a.o: no space left on device", "etcd: the disk is full"),
        ("compile: signal: killed", "etcd: the compiler ran out of memory"),
        ("build cache is required, but GOCACHE is not defined", "etcd: Go has nowhere to keep its caches"),
        ("go: updates to go.mod needed", "etcd: the pins of this module are incomplete"),
        ("x.go:1:1: undefined: y", "etcd did not compile: x.go:1:1: undefined: y; read the log"),
    ],
)
def test_a_failed_build_is_one_sentence_with_fix_and_log(builder: Builder, output: str, want: str) -> None:
    """Whoever sees the error knows what to do, and nothing half-built is published."""
    fail_with(builder, output)
    with pytest.raises(ClusterError) as raised:
        build_family(builder, FAMILIES["etcd"], build_silent_progress())
    assert str(raised.value).startswith(want)
    assert raised.value.log
    assert output in raised.value.log.read_text()
    assert find_missing(builder, ["etcd"]) == ["etcd"]


def test_progress_tells_what_is_built_and_how_long_it_took(builder: Builder) -> None:
    """A plain line per finished family when there is no terminal."""
    output = StringIO()
    build_family(builder, FAMILIES["etcd"], Progress(Console(file=output)))
    assert output.getvalue().startswith("✓ Building etcd: 0 MB (")


def change_toolchain(builder: Builder, family: Family) -> tuple[Builder, Family]:
    return replace(builder, toolchain=Toolchain("go1.27.0 test/fake", Path("go"))), family


def change_package(builder: Builder, family: Family) -> tuple[Builder, Family]:
    return builder, replace(family, programs=(Program("etcd", "go.etcd.io/etcd/other"),))


def change_flags(builder: Builder, family: Family) -> tuple[Builder, Family]:
    return builder, replace(family, stamps=lambda go_mod: ("main.version=1",))


@pytest.mark.parametrize("change", [change_toolchain, change_package, change_flags])
def test_whatever_changes_the_result_changes_the_key(
    builder: Builder, change: Callable[[Builder, Family], tuple[Builder, Family]]
) -> None:
    """A stale program is never found under the key of a new one."""
    family = FAMILIES["etcd"]
    other_builder, other_family = change(builder, family)
    assert builder.key(family) == builder.key(family)
    assert other_builder.key(other_family) != builder.key(family)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_pins_all_it_builds(name: str) -> None:
    """go.mod and go.sum are there, and the version stamps can be read from them."""
    family = FAMILIES[name]
    assert {"go.mod", "go.sum"} <= {path.name for path in family.pins()}
    assert family.linker_flags().startswith("-s -w")


def test_the_version_stamp_follows_the_pin() -> None:
    """kubectl and Helm report the version that was built, without a second place to change."""
    stamps = build_kubernetes_stamps("require (\n\tk8s.io/kubernetes v1.99.7\n)")
    assert "k8s.io/component-base/version.gitVersion=v1.99.7" in stamps
    assert "k8s.io/client-go/pkg/version.gitMinor=99" in stamps
    with pytest.raises(ValueError, match=r"k8s\.io/other is not required"):
        read_pinned_version("require k8s.io/kubernetes v1.99.7", "k8s.io/other")


def test_output_is_read_line_by_line_to_its_end() -> None:
    """Nothing is lost where a line ends late or the last one has no end."""
    script = "import os, time; os.write(2, b'one\\ntw'); time.sleep(0.05); os.write(2, b'o\\nlast')"
    with subprocess.Popen([sys.executable, "-S", "-c", script], stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert [line for line in read_lines_or_ticks(process.stderr) if line] == ["one", "two", "last"]
