"""Flags of `tandem simulate`: plan a fleet on recorded traffic before any GPU is paid for."""

import argparse
from pathlib import Path

from rich.console import Console

from tandem_simulator.command import simulate
from tandem_simulator.errors import SimulatorError
from tandem_simulator.policies.naming import KNOWN
from tandem_simulator.traffic.reading import FORMATS
from tandem_simulator.traffic.servegen import MAX_REQUESTS

EXAMPLE = """example:
  tandem simulate --trace azure.csv.gz --fleet examples/llama-70b.yaml --policy tandem --json out.json --report out.html

A trace is a CSV with arrival_s,input_tokens,output_tokens, an Azure LLM inference trace, a Mooncake JSONL, or the
common prefix of ServeGen's three files. Every policy serves the same requests with the same queue and engines."""


def configure(parser: argparse.ArgumentParser) -> None:
    """All flags, with help."""
    parser.description = "Replay a trace through Tandem's own queue order and scaling code, on modelled engines."
    parser.epilog = EXAMPLE
    _add_inputs(parser)
    _add_world(parser)
    _add_outputs(parser)


def _add_inputs(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("traffic and fleet")
    group.add_argument("--trace", type=Path, required=True, metavar="FILE", help="trace file, or ServeGen prefix")
    group.add_argument("--trace-format", choices=FORMATS, help="default: by name and header")
    group.add_argument("--fleet", type=Path, required=True, metavar="CR.yaml", help="an InferenceDeployment")
    group.add_argument("--policy", required=True, metavar="NAME", help=f"one of {KNOWN}")
    group.add_argument("--speedup", type=float, default=1.0, metavar="X", help="replay X times as fast (default 1)")
    group.add_argument("--copies", type=int, default=1, metavar="N", help="superpose N jittered copies (default 1)")
    group.add_argument("--from-s", type=float, default=0.0, metavar="S", help="skip the first seconds")
    group.add_argument("--duration-s", type=float, metavar="S", help="stop after so many seconds of the trace")
    group.add_argument("--keep", type=float, default=1.0, metavar="SHARE", help="ServeGen: keep a random share")
    group.add_argument(
        "--max-requests", type=int, default=MAX_REQUESTS, metavar="N", help=f"ServeGen: at most N ({MAX_REQUESTS})"
    )


def _add_world(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("world")
    group.add_argument(
        "--startup-s", type=float, default=120.0, metavar="S", help="worker start-up, mean (default 120)"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of every random draw (default 0)")
    group.add_argument("--gpu", default="h100", metavar="NAME", help="GPU when the fleet names no profile (h100)")
    group.add_argument("--profile", metavar="NAME", help="performance profile, such as 70b-h100-tp4")
    group.add_argument(
        "--start",
        choices=("warm", "replicas"),
        default="warm",
        help="warm: start as a fleet that has long been running, first start-up time unscored; "
        "replicas: start with the fleet's replicas, everything scored",
    )
    group.add_argument("--prefix-cache-tokens", type=int, metavar="N", help="fleet-wide KV prefix cache (infinite)")
    group.add_argument("--fail-starts", type=float, default=0.0, metavar="SHARE", help="share of starts that fail")
    group.add_argument("--slow-starts", type=float, default=0.0, metavar="SHARE", help="share that takes 3 x as long")
    group.add_argument("--kill", action="append", default=[], metavar="ROLE@S", help="a worker dies, e.g. decode@600")
    group.add_argument("--blind", action="append", default=[], metavar="FROM-TO", help="metrics lost, seconds")
    group.add_argument("--flush", action="append", default=[], type=float, metavar="S", help="prefix cache lost")
    group.add_argument("--model-error", type=float, default=1.0, metavar="X", help="believed over true engine time")


def _add_outputs(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("output")
    group.add_argument("--json", type=Path, required=True, metavar="OUT", help="scores, sizes and decisions")
    group.add_argument("--report", type=Path, metavar="OUT", help="plots: .html or .png")
    group.add_argument("--gpu-price", type=float, metavar="PER_HOUR", help="adds cost to the output")
    group.add_argument("--quiet", action="store_true", help="no progress, no table")


def run(options: argparse.Namespace) -> int:
    """Do it. 0: done. 2: wrong input, told in one sentence."""
    console = Console(stderr=True, emoji=False, quiet=options.quiet)
    try:
        return simulate(options, console)
    except SimulatorError as error:
        Console(stderr=True, emoji=False).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
