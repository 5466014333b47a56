"""Hurts half of either pool in every way while thousands of clients ask, and prints how each request ended.

    PYTHONPATH=tests .venv/bin/python -m chaos.router [--requests 10000] [--only NAME,...] [--seed N]

Exits with 1 when a request did not end exactly once and typed, when fewer than 99.9 % of those whose fault came before
the first byte were answered, or when a counter did not return to zero.
"""

import argparse
import asyncio
import os
import random
import secrets
import sys
import tempfile
from pathlib import Path

from chaos.router import cancels
from chaos.router.faults import FAULTS
from chaos.router.ledger import Row, run_fault, run_gone_on

CANCEL_GOAL_MS = 5.0
CANCEL_ROUNDS = 200
FAULT_HEAD = """\
| fault of half the workers | requests | 200 | broken, typed | refused, typed | left | retries | p99 s | verdict |
|---|---|---|---|---|---|---|---|---|"""
CANCEL_HEAD = """
| client leaves while | worker's connection closed, p50 ms | p99 ms | goal ≤ 5 ms | verdict |
|---|---|---|---|---|"""


def main() -> int:
    """Returns the exit status."""
    options = read_arguments()
    load = os.getloadavg()[0]
    print(f"seed {options.seed}, {options.requests} requests, load {load:.1f} on {os.cpu_count()} cores\n")
    with tempfile.TemporaryDirectory(prefix="chaos-router-") as folder:
        return asyncio.run(run(Path(folder), options))


async def run(folder: Path, options: argparse.Namespace) -> int:
    """Every fault, then every state in which a client may leave."""
    print(FAULT_HEAD, flush=True)
    chosen = [fault for fault in FAULTS if options.only is None or any(part in fault.name for part in options.only)]
    dice = random.Random(options.seed)  # noqa: S311 - a lot, not a secret
    each = max(1, options.requests // (len(chosen) + 1))
    missed = 0
    for fault in chosen:
        missed += show(await run_fault(fault, folder, each, dice))
    missed += show(await run_gone_on(folder, each, dice))
    print(CANCEL_HEAD, flush=True)
    for closing in await cancels.measure_all(folder, CANCEL_ROUNDS):
        goal = "met" if closing.p99_ms <= CANCEL_GOAL_MS else "missed"
        verdict = "; ".join(closing.misses) or "ok"
        print(f"| {closing.state} | {closing.p50_ms:.2f} | {closing.p99_ms:.2f} | {goal} | {verdict} |", flush=True)
        missed += bool(closing.misses)
    print(f"\n{'all as DESIGN §8 wants it' if not missed else f'{missed} rows are not'}")
    return 1 if missed else 0


def show(row: Row) -> bool:
    """Print a row; whether it missed."""
    print(row.to_markdown(), flush=True)
    return bool(row.misses)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m chaos.router", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000, help="in all, over the faults")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), help="comma-separated parts of the names of faults"
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
