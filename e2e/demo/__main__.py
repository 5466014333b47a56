"""Command line of the demo: `python -m demo up|down`."""

from __future__ import annotations

import argparse
import os
import sys

from rich.console import Console

from cluster.errors import ClusterError
from demo.errors import DemoError
from demo.story import DEMO_CLUSTER, Demo, remove


def build_parser() -> argparse.ArgumentParser:
    """The arguments, with what the environment already says as defaults."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="make a cluster, install Tandem, serve tokens, show the proof")
    down = commands.add_parser("down", help="remove everything that the demo made")
    for command in (up, down):
        command.add_argument(
            "--provider",
            choices=["source", "kind", "existing"],
            default=os.environ.get("CLUSTER", "source"),
            help="where the cluster comes from (default: $CLUSTER or source)",
        )
        command.add_argument("--name", default=DEMO_CLUSTER, help="name of the cluster (default: %(default)s)")
    return parser


def main() -> int:
    """Run one command. Returns the exit status."""
    arguments = build_parser().parse_args()
    console = Console(highlight=False)
    try:
        if arguments.command == "up":
            Demo(arguments.provider, arguments.name, console).run()
        else:
            remove(arguments.provider, arguments.name, console)
    except (DemoError, ClusterError) as error:
        console.print(f"demo: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("demo: stopped; `make demo-down` removes what was made", markup=False)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
