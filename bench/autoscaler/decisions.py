"""`python bench/autoscaler/decisions.py`: processor time of the operator's autoscaler, for many active fleets.

Every fleet gets `--rate` requests a second through two routers; their answers are parsed from JSON, taken in and
decided upon by the production code. Sockets are left out. Idle fleets are beside them, and looked at as well.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from tandem_api.router import ArrivalRecord, DemandAnswer, DemandBin, DemandLevels, EndingRecord, FleetDemand
from tandem_api.v1alpha1 import InferenceDeploymentSpec, InferenceDeploymentStatus
from tandem_operator.autoscale.scaler import PoolSeen, Scaler, Sources
from tandem_operator.autoscale.settings import ROUND_S

START_S = 1_800_000_000
ROUTERS = 2
GOAL_CORES = 0.4
RESULT = Path(__file__).resolve().parents[1] / "results" / "autoscaler-decisions.json"
SPEC = InferenceDeploymentSpec.model_validate(
    {
        "model": {"name": "org/model"},
        "engine": {"performanceProfile": "70b-h100-tp4"},
        "prefill": {"max": 200, "parallelism": {"tensor": 4}},
        "decode": {"max": 200, "parallelism": {"tensor": 4}},
        "objectives": {"ttft": {"percentile": "p99", "seconds": 2}, "tpot": {"percentile": "p99", "seconds": 0.05}},
        "autoscaling": {"mode": "Objectives"},
    }
)


def main() -> None:
    """Rounds over all fleets; the first minutes fill the windows, then time is taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleets", type=int, default=100)
    parser.add_argument("--idle", type=int, default=900)
    parser.add_argument("--rate", type=int, default=20, help="requests per second and fleet")
    parser.add_argument("--rounds", type=int, default=24, help="that are measured")
    options = parser.parse_args()
    status = InferenceDeploymentStatus()
    active = [Scaler(SPEC, status, START_S) for _ in range(options.fleets)]
    idle = [Scaler(SPEC, status, START_S) for _ in range(options.idle)]
    spent = {"taking in": 0.0, "deciding": 0.0}
    warm_up = int(600 / ROUND_S)
    for number in range(warm_up + options.rounds):
        is_measured = number >= warm_up
        # While the windows fill, one decision a minute is enough.
        times = run_round(active, idle, number, options.rate, decides=is_measured or number % 12 == 0)
        if is_measured:
            for name, seconds in times.items():
                spent[name] += seconds
    report(options, spent)


def run_round(active: list[Scaler], idle: list[Scaler], number: int, rate: int, *, decides: bool) -> dict[str, float]:
    """One round. Returns processor seconds."""
    now = START_S + int(ROUND_S * (number + 1))
    answer = build_answer(now - int(ROUND_S), now, rate // ROUTERS)
    began_s = time.process_time()
    for scaler in active:
        for router in range(ROUTERS):
            demand = DemandAnswer.model_validate_json(answer).fleets[0]
            scaler.take(f"router-{router}", demand, float(now))
    for scaler in idle:
        for router in range(ROUTERS):
            scaler.silence(f"router-{router}")
    taken_s = time.process_time()
    pools: Any = {"prefill": PoolSeen(6, 6), "decode": PoolSeen(4, 4)}
    sources = Sources(ROUTERS, tuple(f"router-{number}" for number in range(ROUTERS)), float(now), START_S)
    for scaler in (*active, *idle) if decides else ():
        scaler.step(pools, sources, float(now))
    return {"taking in": taken_s - began_s, "deciding": time.process_time() - taken_s}


def build_answer(from_s: int, until_s: int, rate: int) -> str:
    """One router's share of one fleet, prompts of 500 to 2,000 tokens."""
    seconds = range(from_s, until_s)
    spots = [(second, number) for second in seconds for number in range(rate)]
    times = [(second + number / rate, 500 + 150 * ((number * 7 + second) % 11)) for second, number in spots]
    sums = {second: sum(tokens for at, tokens in times if int(at) == second) for second in seconds}
    fleet = FleetDemand(
        namespace="team",
        name="llama",
        uid="u",
        bins=tuple(
            DemandBin(second=second, arrivals=rate, new_tokens=total, square_tokens=1e3 * total, prompt_tokens=total,
                      finished=rate, held_s=6.0 * rate, held_kv_s=6.0 * total)
            for second, total in sums.items()
        ),
        arrivals=tuple(ArrivalRecord(at, tokens) for at, tokens in times),
        endings=tuple(
            EndingRecord(at, ttft_s=0.4, tpot_s=0.02, prefilled_s=0.3, decode_s=6.0, prompt_tokens=tokens,
                         completion_tokens=200, prefill_s=0.2)
            for at, tokens in times
        ),
        levels=DemandLevels(decode_sequences=6 * rate, decode_kv_tokens=6000.0 * rate),
    )  # fmt: skip
    return DemandAnswer(
        replica="r", epoch="e", now_s=until_s, covers_from=from_s, cursor=until_s, fleets=(fleet,)
    ).model_dump_json()


def report(options: argparse.Namespace, spent: dict[str, float]) -> None:
    """Cores, against the goal."""
    cores = {name: seconds / options.rounds / ROUND_S for name, seconds in spent.items()}
    total = sum(cores.values())
    result = {
        "fleets": options.fleets,
        "idle_fleets": options.idle,
        "requests_per_s_and_fleet": options.rate,
        "round_s": ROUND_S,
        "cores": {name: round(value, 4) for name, value in cores.items()} | {"all": round(total, 4)},
        "ms_per_decision": round(1000 * spent["deciding"] / options.rounds / options.fleets, 2),
        "goal_cores": GOAL_CORES,
        "reached": total <= GOAL_CORES,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
