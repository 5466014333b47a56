"""Reading what ``go list`` and ``go build -v`` print: how far they are, and why they failed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.errors import ClusterError

# Each pattern, what it means, and what helps; the first that matches wins.
FAILURES = (
    (
        r"checksum mismatch",
        "a downloaded Go module does not match its pinned checksum",
        "do not use it: something between here and the module source alters downloads",
    ),
    (
        r"(?P<what>\S+@v\S+?):? .*(403 Forbidden|404 Not Found|410 Gone)",
        "the module source refused {what}",
        "pin a version that it serves in e2e/cluster/modules",
    ),
    (
        r"dial tcp|no such host|i/o timeout|TLS handshake|connection refused|connection reset",
        "Go modules could not be downloaded",
        "check the network and GOPROXY, then run the build again: what was fetched is kept",
    ),
    (r"no space left on device", "the disk is full", "free about 8 GB for Go's caches and build again"),
    (
        r"signal: killed|cannot allocate memory",
        "the compiler ran out of memory",
        "give the build 4 GiB, or try --jobs 1",
    ),
    (
        r"GOCACHE is not defined|GOMODCACHE|module cache not found",
        "Go has nowhere to keep its caches",
        "set HOME, or GOCACHE and GOMODCACHE, to writable folders",
    ),
    (
        r"updates to go\.mod needed|missing go\.sum entry",
        "the pins of this module are incomplete",
        "run 'go mod tidy' in its folder below e2e/cluster/modules",
    ),
)


@dataclass
class BuildCounts:
    """How far one Go command is: modules downloaded, packages compiled of ``packages`` in all."""

    packages: int = 0
    downloaded: int = 0
    compiled: int = 0

    def observe(self, line: str) -> None:
        """Count one line of a Go command's error stream (``-v`` prints each package as it is compiled)."""
        if line.startswith("go: downloading "):
            self.downloaded += 1
        elif re.fullmatch(r"[\w.\-/~]+", line):
            self.compiled += 1

    def describe(self, cold_s: int) -> str:
        """One line for people; ``cold_s`` is what the build takes with empty caches on two cores."""
        if not self.compiled:
            return f"{self.downloaded} modules downloaded" if self.downloaded else "checking what is cached"
        estimate = f"about {cold_s} s on two idle cores when nothing is cached"
        return f"{self.compiled} of at most {self.packages} packages compiled, {estimate}"


def decide_failure(family: str, output: str) -> ClusterError:
    """Turn a failed Go command's output into one sentence with a fix."""
    for pattern, problem, fix in FAILURES:
        if found := re.search(pattern, output):
            return ClusterError(f"{family}: {problem.format(**found.groupdict())}", fix)
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "no output")
    return ClusterError(f"{family} did not compile: {last}", "read the log")
