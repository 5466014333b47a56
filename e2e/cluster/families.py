"""What is built from source: one Go module per family, with its pins in ``modules/FAMILY``.

A family has a module of its own because a shared one would lift KWOK's Kubernetes libraries to a
version that its authors did not build with. CoreDNS is for the real node, which containerd joins then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MODULES = Path(__file__).parent / "modules"


@dataclass(frozen=True)
class Program:
    """One executable: the Go package it comes from, and other names under which it answers."""

    name: str
    package: str
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class Concatenation:
    """A file put together from files inside a pinned module (``module``), in this order."""

    name: str
    module: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Programs that are built, keyed and published together.

    ``cold_s`` is what a build with empty caches takes on two cores, for the estimate that people see.
    """

    name: str
    programs: tuple[Program, ...]
    cold_s: int
    stamps: Callable[[str], tuple[str, ...]] = field(default=lambda go_mod: ())
    files: tuple[Concatenation, ...] = ()

    @property
    def folder(self) -> Path:
        return MODULES / self.name

    def pins(self) -> list[Path]:
        """The files that decide what is built."""
        return sorted(path for path in self.folder.rglob("*") if path.suffix in {".mod", ".sum", ".go"})

    def linker_flags(self) -> str:
        stamps = self.stamps((self.folder / "go.mod").read_text())
        return " ".join(["-s", "-w", *(f"-X {stamp}" for stamp in stamps)])

    def outputs(self) -> list[str]:
        """Names of all that a finished build has."""
        programs = [name for program in self.programs for name in (program.name, *program.links)]
        return [*programs, *(file.name for file in self.files)]


def read_pinned_version(go_mod: str, module: str) -> str:
    """The version of ``module`` that a go.mod requires, as ``v1.2.3``."""
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise ValueError(f"{module} is not required by this go.mod")
    return found[1]


def build_kubernetes_stamps(go_mod: str) -> tuple[str, ...]:
    """What ``kubectl version`` and Helm's ``.Capabilities.KubeVersion`` report; zeros keep builds reproducible."""
    version = read_pinned_version(go_mod, "k8s.io/kubernetes")
    values = {
        "gitVersion": version,
        "gitMajor": version.split(".")[0].removeprefix("v"),
        "gitMinor": version.split(".")[1],
        "gitTreeState": "clean",
        "gitCommit": "0" * 40,
        "buildDate": "1970-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return tuple(f"{package}.{key}={value}" for package in packages for key, value in values.items())


def build_helm_stamps(go_mod: str) -> tuple[str, ...]:
    package = "helm.sh/helm/v4/internal/version"
    version = read_pinned_version(go_mod, "helm.sh/helm/v4")
    return f"{package}.version={version}", f"{package}.gitTreeState=clean"


KUBERNETES_COMMANDS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)

# The kwok binary brings no stages of its own and exits without them.
KWOK_STAGES = Concatenation(
    "kwok-stages.yaml",
    "sigs.k8s.io/kwok",
    tuple(
        f"kustomize/stage/{stage}.yaml"
        for stage in (
            "node/fast/node-initialize",
            "node/heartbeat-with-lease/node-heartbeat-with-lease",
            "pod/fast/pod-ready",
            "pod/fast/pod-complete",
            "pod/fast/pod-delete",
        )
    ),
)

FAMILIES = {
    family.name: family
    for family in (
        Family("etcd", (Program("etcd", "go.etcd.io/etcd/server/v3"),), cold_s=45),
        Family(
            "kube",
            # One multi-call binary: 155 MB instead of 538, one link, shared memory pages.
            (Program("kubeall", "./kubeall", links=KUBERNETES_COMMANDS),),
            cold_s=330,
            stamps=build_kubernetes_stamps,
        ),
        Family("kwok", (Program("kwok", "sigs.k8s.io/kwok/cmd/kwok"),), cold_s=50, files=(KWOK_STAGES,)),
        Family("helm", (Program("helm", "helm.sh/helm/v4/cmd/helm"),), cold_s=80, stamps=build_helm_stamps),
        Family("coredns", (Program("coredns", "github.com/coredns/coredns"),), cold_s=75),
        Family("kind", (Program("kind", "sigs.k8s.io/kind"),), cold_s=20),
    )
}

CONTROL_PLANE = ("etcd", "kube", "kwok")
ALL = (*CONTROL_PLANE, "helm")  # what the provider source runs on today; the others are built when asked for


def list_needed(kwok_nodes: int) -> tuple[str, ...]:
    """What a cluster with so many fake nodes runs on. KWOK takes a minute to build: only who has such nodes waits."""
    return ALL if kwok_nodes else tuple(name for name in ALL if name != "kwok")
