"""Hurts KV transfer between two real vLLM engines in every way that DESIGN names, and prints what came of it.

    TANDEM_WORKER_PYTHON=... PYTHONPATH=tests .venv/bin/python -m chaos.kv [--nixl] [--soak 200] [--only NAME,...]

With --nixl the engines hand over by NIXL, and suffer what can be done to them from outside; see docs/design/nixl.md.
A whole run writes bench/results/kv-chaos.md, or kv-chaos-nixl.md. Exits with 1 when an output differed, a wait was too
long, too much was recomputed, or something was not given back.
"""

import argparse
import os
import secrets
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx

from chaos.kv import clients, equality, prefill_faults, tickets
from chaos.kv.soak import soak
from chaos.kv.stage import Outcome, Stage, running_stage

RESULTS = Path(__file__).resolve().parents[3] / "bench" / "results"
HEAD = ("| fault | outcome | s | tokens recomputed | output equal | verdict |", "|---|---|---|---|---|---|")
Scenario = Callable[[Stage], Outcome]
# Faults that leave orders for dead addresses come last: their retries are counted, and would blur "noticed after".
SCENARIOS: dict[str, Scenario] = {
    "no fault, 12 prompts": equality.serve_prompts_of_many_lengths,
    "32 requests at once": equality.serve_many_at_once,
    "corrupted bytes (control)": equality.destroy_bytes,
    "none, tensor parallel 2": equality.split_over_ranks,
    "ticket expired": tickets.expire,
    "ticket replayed": tickets.replay,
    "ticket forged": tickets.forge_signature,
    "ticket with other blocks": tickets.forge_blocks,
    "ticket of another prompt": tickets.swap_prompts,
    "client leaves during prefill": clients.leave_during_prefill,
    "client leaves during transfer": clients.leave_during_transfer,
    "client leaves during decode": clients.leave_during_decode,
    "SIGSTOP before transfer": prefill_faults.stop_before,
    "SIGSTOP during transfer": prefill_faults.stop_during,
    "SIGSTOP after transfer": prefill_faults.stop_after,
    "SIGKILL during transfer": prefill_faults.kill_during,
    "SIGKILL after transfer": prefill_faults.kill_after,
    "SIGKILL, restart, same address": prefill_faults.restart_at_same_address,
    "black hole mid-chunk": tickets.swallow_bytes,
    "SIGKILL before transfer": prefill_faults.kill_before,
}

_OVER_NIXL = (
    "no fault, 12 prompts",
    "32 requests at once",
    "ticket expired",
    "ticket replayed",
    "ticket forged",
    "ticket of another prompt",
    "client leaves during prefill",
    "client leaves during decode",
    "SIGSTOP after transfer",
    "SIGKILL after transfer",
    "SIGKILL, restart, same address",
    "SIGKILL before transfer",
)
NIXL_SCENARIOS: dict[str, Scenario] = {
    "SIGSTOP before transfer, SIGCONT": prefill_faults.stop_before_and_go_on,
    **{name: SCENARIOS[name] for name in _OVER_NIXL},
}


def main() -> int:
    options = _read_arguments()
    python = os.environ.get("TANDEM_WORKER_PYTHON")
    if not python:
        print("TANDEM_WORKER_PYTHON is not set: it names a Python with vLLM; `make worker-env` prints one")
        return 2
    scenarios = _choose(options)
    print(f"seed {options.seed}\n", *HEAD, sep="\n", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="chaos-kv-") as folder,
        running_stage(python, Path(folder), options.seed, is_nixl=options.nixl) as stage,
    ):
        rows = [_run(name, scenario, stage) for name, scenario in scenarios.items()]
    right = sum(row.endswith("| ok |") for row in rows)
    ending = f"{right} of {len(rows)} as DESIGN §8 wants it"
    print(f"\n{ending}")
    if not options.only:
        _write(rows, ending, options)
    return 0 if right == len(rows) else 1


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m chaos.kv", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--soak", type=int, default=200, help="requests in a loop; 3600 is an hour's worth")
    parser.add_argument("--nixl", action="store_true", help="engines that hand over by NIXL")
    parser.add_argument("--only", help="comma-separated parts of the names of faults")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    return parser.parse_args()


def _choose(options: argparse.Namespace) -> dict[str, Scenario]:
    scenarios = (NIXL_SCENARIOS if options.nixl else SCENARIOS) | {
        f"{options.soak} requests in a loop": partial(soak, requests=options.soak)
    }
    if not options.only:
        return scenarios
    parts = options.only.split(",")
    return {name: scenario for name, scenario in scenarios.items() if any(part in name for part in parts)}


def _write(rows: list[str], ending: str, options: argparse.Namespace) -> None:
    """The last whole run, with what the machine was like."""
    connector, load = "NIXL" if options.nixl else "Tandem's connector over tcp", os.getloadavg()[0]
    title = f"# Faults of KV transfer: {connector}, real vLLM on CPU"
    machine = f"{ending}. {os.cpu_count()} CPUs, load {load:.0f} when it ended; seed {options.seed}. `make chaos-kv`."
    page = "\n".join([title, "", machine, "", *HEAD, *rows, ""])
    (RESULTS / f"kv-chaos{'-nixl' if options.nixl else ''}.md").write_text(page)


def _run(name: str, scenario: Scenario, stage: Stage) -> str:
    """A row of the table; its last cell is ok when all was as it should be."""
    try:
        outcome = scenario(stage)
        outcome.misses += stage.find_leaks()
    except (httpx.HTTPError, OSError, RuntimeError) as error:  # an engine that answers no more is an outcome too
        traceback.print_exc()
        outcome = Outcome(f"{type(error).__name__}: {error}".splitlines()[0], misses=["the request did not end well"])
    verdict = "; ".join(outcome.misses) or "ok"
    equal = {None: "-", True: "yes", False: "no"}[outcome.is_equal]
    figures = f"{outcome.seconds:.2f} | {outcome.recomputed_tokens} | {equal}"
    row = f"| {name} | {outcome.summary} | {figures} | {verdict} |"
    print(row, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
