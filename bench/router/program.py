"""The Go program that plays clients and engines: built once per version of its sources, kept in the cache."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.router.processes import LOAD_CORE, Process, pinned

from cluster.golang import find_toolchain, install_toolchain
from cluster.places import Places
from cluster.progress import build_silent_progress

SOURCES = Path(__file__).parent / "load"


@dataclass(frozen=True)
class LoadProgram:
    """The built program."""

    path: Path

    def start_engines(self, gap_ms: int, log: Path) -> tuple[Process, list[int]]:
        """Four engines whose streams send an event every `gap_ms`, and their ports."""
        engines = Process.start([str(self.path), "engines", "-gap", f"{gap_ms}ms"], LOAD_CORE, log, is_read=True)
        return engines, json.loads(engines.read_line())

    def start_clients(self, port: int, arguments: Sequence[str]) -> subprocess.Popen[str]:
        """Clients that ask whatever listens on `port`; their output is read by `read_result`."""
        command = [str(self.path), "clients", "-address", f"127.0.0.1:{port}", *arguments]
        return subprocess.Popen(pinned(command, LOAD_CORE), stdout=subprocess.PIPE, text=True)

    def run_clients(self, port: int, arguments: Sequence[str]) -> dict[str, Any]:
        """What the clients saw, as client.go's `Result`."""
        return read_result(self.start_clients(port, arguments))


def read_result(clients: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the clients to finish.

    Raises:
        subprocess.CalledProcessError: they could not play.
    """
    output, _ = clients.communicate()
    if clients.returncode:
        raise subprocess.CalledProcessError(clients.returncode, "clients")
    result: dict[str, Any] = json.loads(output)
    return result


def build_program(places: Places) -> LoadProgram:
    """Build what is not in the cache yet.

    Raises:
        ClusterError: there is no Go that fits.
        subprocess.CalledProcessError: the sources do not compile.
    """
    toolchain = find_toolchain(places)
    digest = hashlib.sha256(toolchain.identity.encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    target = places.cache / "bench" / f"load-{digest.hexdigest()[:12]}"
    if not target.exists():
        install_toolchain(toolchain, places, build_silent_progress())
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        subprocess.run([toolchain.executable, "build", "-o", partial, "."], cwd=SOURCES, check=True)
        partial.rename(target)
    return LoadProgram(target)
