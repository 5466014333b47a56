"""How fast KV moves between two processes of one machine: a raw socket, Tandem's tcp, gloo, NIXL, in one run.

    $WORKER_PYTHON -m bench.kv [--rounds 3] [--repeats 9] [--chunk-mib 8] [--only raw,tandem]

Needs a Python with torch (`tools/bootstrap.py worker-cpu` prints one) and, for the NIXL rows, requirements-nixl.txt.
A full run writes bench/results/kv.json and kv.md; a run of some schemes only prints.
"""

import argparse
import json
import sys

from bench.kv.pair import NEEDS, REPOSITORY, BenchError, find_missing, measure_round
from bench.kv.report import Rounds, build_document, build_page, build_table, compute_ratios, describe_ratios

RESULTS = REPOSITORY / "bench" / "results"


def main() -> int:
    options = _read_arguments()
    names = options.only.split(",") if options.only else list(NEEDS)
    lacking = {name: find_missing(name) for name in names}
    missing = {name: f"{', '.join(modules)} not installed" for name, modules in lacking.items() if modules}
    try:
        rounds = _measure([name for name in names if name not in missing], options)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    print(build_table(rounds, missing), describe_ratios(compute_ratios(rounds)), sep="\n\n")
    if not options.only:
        _write(rounds, missing, options)
    return 0


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kv", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--chunk-mib", type=int, default=8)
    parser.add_argument("--only", help=f"comma-separated, of {', '.join(NEEDS)}")
    return parser.parse_args()


def _measure(names: list[str], options: argparse.Namespace) -> Rounds:
    rounds: Rounds = {name: [] for name in names}
    for number in range(options.rounds):
        for name, transfers in measure_round(names, options.repeats, options.chunk_mib << 20).items():
            rounds[name].append(transfers)
        print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    return rounds


def _write(rounds: Rounds, missing: dict[str, str], options: argparse.Namespace) -> None:
    setting = {"rounds": options.rounds, "repeats": options.repeats, "chunk_bytes": options.chunk_mib << 20}
    document = build_document(rounds, missing, setting)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "kv.json").write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / "kv.md").write_text(build_page(document, rounds))


if __name__ == "__main__":
    sys.exit(main())
