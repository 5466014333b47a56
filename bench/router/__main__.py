"""What a request and an event cost this router and its peers: `python -m bench.router`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.router import report as reporting
from bench.router.measure import Bench, Report, measure_memory, measure_rounds
from bench.router.peers import PEERS, Peer, PeerMissingError, install, pinned_version
from bench.router.program import build_program

from cluster.places import Places, places_from_environment

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Measure, print the table, and write it down."""
    options = parse_options()
    places, report = places_from_environment(os.environ), Report()
    peers = [peer for peer in PEERS if peer.name in options.peers]
    raise_file_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every router is stopped on the way out
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        bench = Bench(build_program(places), install_all(peers, places, report), Path(folder))
        able = [peer for peer in peers if peer.name in bench.pythons]
        measure_rounds(bench, able, options.rounds, report)
        if options.streams:
            measure_memory(bench, able, options.streams, report)
    text = render(report, options)
    print(text)
    if options.write:
        write_results(report, text)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.router", description=__doc__)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are shown")
    parser.add_argument(
        "--streams", type=int, default=2000, help="open streams for the memory reading; 0 leaves it out"
    )
    parser.add_argument("--peers", nargs="+", choices=names, default=names, help="routers to measure")
    parser.add_argument("--write", action="store_true", help=f"keep the results in bench/{RESULTS.name}")
    return parser.parse_args()


def install_all(peers: Sequence[Peer], places: Places, report: Report) -> dict[str, str]:
    """Interpreters of the peers that can be measured; the others are told in `report`."""
    pythons = {}
    for peer in peers:
        try:
            pythons[peer.name] = install(peer, places)
        except PeerMissingError as error:
            report.missing[peer.name] = str(error)
    return pythons


def raise_file_limit() -> None:
    """Thousands of streams need as many files; the limit is inherited by what we start."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def render(report: Report, options: argparse.Namespace) -> str:
    """The page of results."""
    versions = ", ".join(f"{peer.name} {version}" for peer in PEERS if (version := pinned_version(peer)))
    return "\n\n".join(
        (
            "# Router: cost beside its peers",
            f"Written by `make bench-router`: medians of {options.rounds} interleaved rounds, one core for the router, "
            f"one for clients and engines; memory with {options.streams} open streams. × is the ratio to ours. "
            f"{versions}; {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load "
            f"{os.getloadavg()[1]:.1f}.",
            reporting.table(report),
            "Goals (DESIGN §15, research on routers §7):\n" + reporting.verdicts(report),
            "Left out or failed:\n" + reporting.failures(report),
        )
    )


def write_results(report: Report, text: str) -> None:
    """Keep the page and every reading."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "router.md").write_text(text + "\n")
    (RESULTS / "router.json").write_text(json.dumps(asdict(report), indent=1) + "\n")


if __name__ == "__main__":
    main()
