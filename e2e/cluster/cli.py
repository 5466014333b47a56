"""The command line: ``python -m cluster build|up|down|status|kubeconfig``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster import api
from cluster.build import build_families, find_builder
from cluster.errors import ClusterError
from cluster.families import ALL, CONTROL_PLANE, FAMILIES
from cluster.progress import Progress
from cluster.spec import PROVIDERS, ClusterSpec, NodeCapacity

EXAMPLES = """\
examples:
  python -m cluster build                          compile everything (first time: 5 to 10 minutes)
  python -m cluster up --kwok-nodes 3              three fake nodes with 8 GPUs each, in seconds
  python -m cluster up --process-nodes 1 --image tandem/worker=.venv
                                                   pods run as local processes, no root, no images
  export KUBECONFIG=$(python -m cluster kubeconfig)
  python -m cluster down --all

TANDEM_CACHE chooses where programs and clusters are kept (default: ~/.cache/tandem).
"""


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit status. Failures are one sentence on the error stream."""
    signal.signal(signal.SIGTERM, exit_on_signal)
    options = build_parser().parse_args(arguments)
    progress = Progress(Console(stderr=True))
    try:
        result: int = options.run(options, progress)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}; TANDEM_CACHE must be a writable folder with some GB free", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return result


def exit_on_signal(number: int, frame: Any) -> None:
    """Let a TERM unwind the stack, so that a half-started cluster is taken down."""
    raise SystemExit(128 + number)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cluster",
        description="Kubernetes clusters for Tandem's demo and tests: no root, no Docker, several side by side.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_build(commands)
    add_up(commands)
    add_down(commands)
    add_status(commands)
    add_kubeconfig(commands)
    return parser


def add_build(commands: Any) -> None:
    build = commands.add_parser("build", help="compile Kubernetes, etcd, KWOK and Helm from pinned modules")
    build.add_argument(
        "--only",
        nargs="+",
        choices=[*FAMILIES, "light"],
        default=list(ALL),
        help=f"families to build; 'light' means {', '.join(CONTROL_PLANE)} (default: all)",
    )
    build.add_argument(
        "--jobs",
        type=parse_jobs,
        metavar="N",
        help="compile N packages at once (default: all cores, and two that wait for the disk)",
    )
    build.set_defaults(run=run_build)


def add_up(commands: Any) -> None:
    default = NodeCapacity()
    up = commands.add_parser("up", help="bring a cluster up, building what is missing")
    add_name(up)
    up.add_argument("--provider", choices=PROVIDERS, default="source", help="where it comes from (source)")
    up.add_argument(
        "--process-nodes", type=int, default=0, metavar="N", help="nodes whose pods are local processes (0)"
    )
    up.add_argument("--kwok-nodes", type=int, default=0, metavar="N", help="fake nodes, for scale (0)")
    up.add_argument("--gpus", type=int, default=default.gpus, metavar="N", help=f"per node ({default.gpus})")
    up.add_argument("--cpu", default=default.cpu, help=f"CPU that each node claims ({default.cpu})")
    up.add_argument("--memory", default=default.memory, help=f"memory that each claims ({default.memory})")
    up.add_argument("--pods", type=int, default=default.pods, help=f"pods per node ({default.pods})")
    up.add_argument(
        "--image",
        action="append",
        default=[],
        type=parse_image,
        metavar="NAME=FOLDER",
        help="virtual environment that process nodes run for an image name; may be repeated",
    )
    up.add_argument("--audit-log", action="store_true", help="write an audit log, one JSON event a line")
    up.add_argument("--kubeconfig", type=Path, help="for --provider existing (default: KUBECONFIG)")
    up.set_defaults(run=run_up)


def add_down(commands: Any) -> None:
    down = commands.add_parser("down", help="remove a cluster and everything that belongs to it")
    add_name(down)
    down.add_argument("--all", action="store_true", help="every cluster of this cache")
    down.set_defaults(run=run_down)


def add_status(commands: Any) -> None:
    status = commands.add_parser("status", help="list clusters and whether they answer")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(run=run_status)


def add_kubeconfig(commands: Any) -> None:
    kubeconfig = commands.add_parser("kubeconfig", help="print the path of a cluster's kubeconfig")
    add_name(kubeconfig)
    kubeconfig.set_defaults(run=run_kubeconfig)


def add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", default="tandem", help="name of the cluster (tandem)")


def parse_image(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=FOLDER")
    return name, Path(folder).expanduser().absolute()


def parse_jobs(text: str) -> int:
    if not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: write a number from 1")
    return int(text)


def run_build(options: argparse.Namespace, progress: Progress) -> int:
    names = [name for name in FAMILIES if name in options.only or ("light" in options.only and name in CONTROL_PLANE)]
    folders = build_families(find_builder(api.default_places(), options.jobs), names, progress)
    for name, folder in folders.items():
        print(f"{name}\t{folder}")
    return 0


def run_up(options: argparse.Namespace, progress: Progress) -> int:
    cluster = api.up(build_spec(options), progress)
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    print(f"export PATH={cluster.bin_dir}:$PATH")
    return 0


def build_spec(options: argparse.Namespace) -> ClusterSpec:
    return ClusterSpec(
        name=options.name,
        provider=options.provider,
        process_nodes=options.process_nodes,
        kwok_nodes=options.kwok_nodes,
        capacity=NodeCapacity(options.gpus, options.cpu, options.memory, options.pods),
        images=dict(options.image),
        audit_log=options.audit_log,
        kubeconfig=options.kubeconfig.absolute() if options.kubeconfig else None,
    )


def run_down(options: argparse.Namespace, progress: Progress) -> int:
    every = [listing.cluster.name for listing in api.list_clusters()]
    for name in every if options.all else [options.name]:
        if not api.down(name, progress):
            progress.note(f"there is no cluster {name}")
    return 0


def run_status(options: argparse.Namespace, progress: Progress) -> int:
    listings = api.list_clusters()
    if options.json:
        print(json.dumps([build_row(listing) for listing in listings], indent=2))
    else:
        for row in map(build_row, listings):
            print(f"{row['name']:<20} {row['provider']:<10} {row['status']:<10} {row['kubeconfig']}")
        if not listings:
            progress.note("no clusters; 'python -m cluster up' makes one")
    return 0


def build_row(listing: api.Listing) -> dict[str, str]:
    status = "ready" if listing.is_live else "broken" if listing.state.phase == "ready" else listing.state.phase
    return {
        "name": listing.cluster.name,
        "provider": listing.cluster.provider,
        "status": status,
        "kubeconfig": str(listing.cluster.kubeconfig),
        "logs": str(listing.cluster.run.logs),
    }


def run_kubeconfig(options: argparse.Namespace, progress: Progress) -> int:
    print(api.fetch_cluster(options.name).kubeconfig)
    return 0
