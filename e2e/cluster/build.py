"""Build the cluster's programs from pinned Go modules, once per content of their pins.

A finished build is a folder ``FAMILY-KEY`` that appears by one rename, so it is either whole or absent.
"""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from cluster.errors import ClusterError
from cluster.families import FAMILIES, Concatenation, Family
from cluster.go_output import BuildCounts, decide_failure
from cluster.golang import Toolchain, find_toolchain, install_toolchain
from cluster.locks import exclusive_lock
from cluster.places import Places
from cluster.progress import Progress, Step
from cluster.scratch import go_scratch

GO_ENVIRONMENT = {
    "GOFLAGS": "-mod=readonly",
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
    "CGO_ENABLED": "0",
}
TICK_S = 1.0


@dataclass(frozen=True)
class Builder:
    """One toolchain and one cache folder; `scratch` tells Go where to compile."""

    places: Places
    toolchain: Toolchain
    jobs: int | None = None
    scratch: Mapping[str, str] = field(default_factory=dict)

    def folder(self, family: Family) -> Path:
        return self.places.binaries / f"{family.name}-{self.key(family)}"

    def key(self, family: Family) -> str:
        """Hash of all that decides the result: pins, sources, Go, packages, flags."""
        digest = hashlib.sha256()
        for path in family.pins():
            digest.update(f"{path.relative_to(family.folder)}\n".encode() + path.read_bytes())
        digest.update(f"{self.toolchain.identity} {family.programs} {family.files}".encode())
        digest.update(f"{family.linker_flags()} {sorted(GO_ENVIRONMENT.items())}".encode())
        return digest.hexdigest()[:16]

    def is_built(self, family: Family) -> bool:
        return self.folder(family).is_dir()

    def log(self, family: Family) -> Path:
        return self.places.binaries / "log" / f"{family.name}.log"


def find_builder(places: Places, jobs: int | None = None) -> Builder:
    return Builder(places, find_toolchain(places), jobs)


def find_missing(builder: Builder, names: Iterable[str]) -> list[str]:
    """The families among ``names`` that still have to be built."""
    return [name for name in names if not builder.is_built(FAMILIES[name])]


def build_families(builder: Builder, names: Iterable[str], progress: Progress) -> dict[str, Path]:
    """Build what is missing; returns the folder of each family. Raises ClusterError.

    While one family compiles, the sources of the next ones are fetched: the network waits for nobody.
    """
    names = list(names)
    missing = find_missing(builder, names)
    if not missing:
        return {name: builder.folder(FAMILIES[name]) for name in names}
    ahead = ThreadPoolExecutor(1, "fetch-sources")
    try:
        for name in missing[1:]:
            ahead.submit(fetch_sources, builder, FAMILIES[name])
        with go_scratch() as scratch:
            compiling = replace(builder, scratch=scratch)
            return {name: build_family(compiling, FAMILIES[name], progress) for name in names}
    finally:
        ahead.shutdown(cancel_futures=True)


def fetch_sources(builder: Builder, family: Family) -> None:
    """Bring the family's modules into Go's cache. A failure is not told here: the build meets it again, and tells."""
    if builder.toolchain.is_installed():
        packages = [program.package for program in family.programs]
        subprocess.run(
            [str(builder.toolchain.executable), "list", "-deps", *packages],
            cwd=family.folder, env={**os.environ, **GO_ENVIRONMENT}, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip


def build_family(builder: Builder, family: Family, progress: Progress) -> Path:
    """Build one family unless it is there. Safe to call from several processes at once."""
    target = builder.folder(family)
    if target.is_dir():
        return target

    def tell_waiting() -> None:
        progress.note(f"another process is building {family.name}; waiting for it")

    with exclusive_lock(builder.places.binaries / f".lock-{family.name}", tell_waiting):
        if not target.is_dir():
            if not builder.toolchain.is_installed():
                install_toolchain(builder.toolchain, builder.places, progress)
            with progress.step(f"Building {family.name}") as step:
                step.result = publish(builder, family, step)
    return target


def publish(builder: Builder, family: Family, step: Step) -> str:
    """Compile into a folder beside the target and rename it there; returns a summary."""
    target = builder.folder(family)
    partial = target.with_name(f".{family.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a build that was killed; the lock is ours
    partial.mkdir(parents=True)
    for program in family.programs:
        compile_program(builder, family, program.package, partial / program.name, step)
        for link in program.links:
            (partial / link).symlink_to(program.name)
    for file in family.files:
        (partial / file.name).write_text(concatenate(builder, family, file))
    partial.rename(target)
    return f"{sum(path.stat().st_size for path in target.iterdir() if not path.is_symlink()) / 1e6:.0f} MB"


def compile_program(builder: Builder, family: Family, package: str, output: Path, step: Step) -> None:
    """List first, which downloads what is missing and tells how many packages there are; then compile."""
    counts = BuildCounts()
    listing = run_go(builder, family, ["list", "-deps", package], counts, step)
    counts.packages = len(listing.split())
    jobs = builder.jobs or (os.cpu_count() or 1) + 2  # while one waits for the disk, others compile
    flags = ["-v", "-trimpath", "-buildvcs=false", "-p", str(jobs), "-ldflags", family.linker_flags()]
    run_go(builder, family, ["build", *flags, "-o", str(output), package], counts, step)


def concatenate(builder: Builder, family: Family, file: Concatenation) -> str:
    """The wanted parts of a pinned module as one YAML stream."""
    answer = run_go(builder, family, ["list", "-m", "-f", "{{.Dir}}", file.module], BuildCounts(), None)
    return "".join(f"---\n{(Path(answer.strip()) / part).read_text()}" for part in file.parts)


def run_go(builder: Builder, family: Family, arguments: list[str], counts: BuildCounts, step: Step | None) -> str:
    """Run one Go command in the family's module; returns its output. Raises ClusterError with the log."""
    log = builder.log(family)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(builder.toolchain.executable), *arguments]
    tail: deque[str] = deque(maxlen=200)
    with log.open("a") as record, (log.with_suffix(".out")).open("w+") as answer:
        record.write(f"$ {' '.join(command)}\n")
        with subprocess.Popen(
            command,
            cwd=family.folder,
            env={**os.environ, **GO_ENVIRONMENT, **builder.scratch},
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stderr
            for line in read_lines_or_ticks(process.stderr):
                if line:
                    record.write(f"{line}\n")
                    tail.append(line)
                    counts.observe(line)
                if step:
                    step.update(counts.describe(family.cold_s))
        if process.returncode:
            failure = decide_failure(family.name, "\n".join(tail))
            raise ClusterError(failure.problem, failure.fix, log)
        answer.seek(0)
        return answer.read()


def read_lines_or_ticks(stream: IO[bytes]) -> Iterator[str]:
    """Lines as they come, and an empty string after each quiet second, so that a clock can go on."""
    pending = b""
    while True:
        readable, _, _ = select.select([stream], [], [], TICK_S)
        if not readable:
            yield ""
            continue
        chunk = os.read(stream.fileno(), 65536)
        if not chunk:
            break
        *lines, pending = (pending + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    if pending:
        yield pending.decode(errors="replace")
