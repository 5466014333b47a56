"""What KV transfer costs two real vLLM engines: are decode steps of others held up, and what do idle leases burn?

    TANDEM_WORKER_PYTHON=... PYTHONPATH=.:tests .venv/bin/python -m bench.kv.engines [--rounds 5] [--window-s 4]

Prefill is pinned to one core, decode to another. A window counts the gaps between the tokens of one long answer: alone,
while prompts of 1,500 tokens are prefilled and pulled one after another, and, as the control, with all of that but the
transfer: as many prompts are prefilled, and as many are asked that the decode engine has in its own cache.
Writes bench/results/kv-engines.json and .md.
"""

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from integration.kv.vllm_engine import Engine, complete_disaggregated, make_tiny_model, prefill, start_engine

RESULTS = Path(__file__).resolve().parents[1] / "results"
PROMPT_TOKENS, ANSWER_TOKENS = 1500, 1900
TARGET = 1.5
_PROMPTS_CACHED = 6  # that many of them the decode engine still has


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window-s", type=float, default=4)
    options = parser.parse_args()
    python = os.environ.get("TANDEM_WORKER_PYTHON")
    if not python:
        print("TANDEM_WORKER_PYTHON is not set: it names a Python with vLLM", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, _pair(python, Path(folder)) as (prefiller, decoder):
        for engine, core in ((prefiller, 0), (decoder, 1)):
            _pin(engine, core)
        rounds = [_measure_round(prefiller, decoder, options.window_s) for _ in range(options.rounds)]
        idle = {"without leases": _idle(prefiller, decoder)}
        prefill(prefiller, _make_prompt())
        idle["with one open lease"] = _idle(prefiller, decoder)
    _report({"rounds": rounds, "idle_cpu_share": idle, "load_at_end": round(os.getloadavg()[0], 1)})
    return 0


@contextmanager
def _pair(python: str, folder: Path) -> Any:
    model = make_tiny_model(python, folder / "model")
    roles = ("prefill", "decode")
    engines = [start_engine(python, model, folder / role, f"127.0.233.{n}", role) for n, role in enumerate(roles, 1)]
    try:
        for engine in engines:
            engine.wait_ready()
        yield engines
    finally:
        for engine in engines:
            engine.stop()


def _measure_round(prefiller: Engine, decoder: Engine, window_s: float) -> dict[str, float]:
    """p90 of the gaps between tokens in each of the three windows."""
    alone_s = _gaps(decoder, window_s)
    before, prompts = decoder.stats()["bytes_received"], []

    def pull() -> None:
        prompts.append(_make_prompt())
        complete_disaggregated(prefiller, decoder, prompts[-1], max_tokens=1)

    beside_s = _gaps_beside(decoder, window_s, pull)
    moved = decoder.stats()["bytes_received"] - before
    known, asked = prompts[-_PROMPTS_CACHED:], itertools.count()

    def ask_without_transfer() -> None:
        ticket = prefill(prefiller, _make_prompt())
        prefiller.ask({"op": "release", "params": ticket})
        decoder.complete(known[next(asked) % len(known)], max_tokens=1)

    control_s = _gaps_beside(decoder, window_s, ask_without_transfer)
    p90 = {"alone": _p90(alone_s), "beside": _p90(beside_s), "control": _p90(control_s)}
    return {
        **{f"{name}_p90_s": value for name, value in p90.items()},
        "ratio": p90["beside"] / p90["alone"],
        "control_ratio": p90["control"] / p90["alone"],
        "pulls": len(prompts),
        "asked_in_control": next(asked),
        "bytes_moved": moved,
    }


def _p90(gaps_s: list[float]) -> float:
    return quantiles(gaps_s, n=10)[-1]


def _gaps_beside(decoder: Engine, window_s: float, ask: Callable[[], None]) -> list[float]:
    """Gaps of a window in which another client asks, again and again."""
    is_over = threading.Event()

    def ask_on() -> None:
        while not is_over.is_set():
            ask()

    asker = threading.Thread(target=ask_on)
    asker.start()
    gaps_s = _gaps(decoder, window_s)
    is_over.set()
    asker.join()
    return gaps_s


def _gaps(engine: Engine, window_s: float) -> list[float]:
    body = {
        "model": "m",
        "prompt": _make_prompt()[:50],
        "max_tokens": ANSWER_TOKENS,
        "ignore_eos": True,
        "stream": True,
    }
    times: list[float] = []
    with engine.client.stream("POST", "/v1/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                times.append(time.monotonic())
            if times and times[-1] - times[0] > window_s:
                break
    return [later - earlier for earlier, later in pairwise(times)]


def _idle(*engines: Engine) -> list[float]:
    """Share of a core that each engine uses when nothing is asked of it, over five seconds."""
    time.sleep(1)
    before, started_s = [_cpu_s(engine) for engine in engines], time.monotonic()
    time.sleep(5)
    took_s = time.monotonic() - started_s
    return [round((_cpu_s(engine) - then) / took_s, 3) for engine, then in zip(engines, before, strict=True)]


def _processes(engine: Engine) -> list[int]:
    numbers = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [number for number in numbers if _session_of(number) == engine.process.pid]


def _session_of(process: int) -> int | None:
    try:
        return os.getsid(process)
    except ProcessLookupError:
        return None


def _cpu_s(engine: Engine) -> float:
    ticks = 0
    for process in _processes(engine):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _pin(engine: Engine, core: int) -> None:
    for process in _processes(engine):
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core % (os.cpu_count() or 1)})


def _make_prompt() -> list[int]:
    return [random.randrange(5, 900) for _ in range(PROMPT_TOKENS)]


def _report(document: dict[str, Any]) -> None:
    rounds = document["rounds"]
    alone, control = (median(one[name] for one in rounds) for name in ("ratio", "control_ratio"))
    own = median(one["ratio"] / one["control_ratio"] for one in rounds)
    verdict = "met" if own <= TARGET else "MISSED"
    lines = [
        "# KV transfer beside decoding, real vLLM on CPU",
        "",
        "p90 of the gaps between tokens of one answer: alone; beside pulls of 1,500-token prompts; and as the control",
        "beside the same work without transfer: such prompts are prefilled, and others asked that decode has cached.",
        "",
        "| round | alone, ms | beside pulls, ms | / alone | control, ms | / alone | pulls | asked | MB moved |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(number, one) for number, one in enumerate(rounds, 1)),
        "",
        f"- beside pulls / control, median: {own:.2f} (target <= {TARGET}: {verdict}): the transfer's own cost",
        f"- beside pulls / alone, median: {alone:.2f}; control / alone: {control:.2f}. The control moves no KV:",
        "  it adds the prefill engine on the neighbouring core, and one more request in the decode engine's batch",
    ]
    for name, shares in document["idle_cpu_share"].items():
        lines.append(f"- idle, {name}: prefill {shares[0]:.0%}, decode {shares[1]:.0%} of a core")
    lines.append(f"- load of the machine when it ended: {document['load_at_end']}")
    page = "\n".join(lines) + "\n"
    print(page)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "kv-engines.json").write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / "kv-engines.md").write_text(page)


def _row(number: int, one: dict[str, float]) -> str:
    ms = {name: f"{one[f'{name}_p90_s'] * 1e3:.2f}" for name in ("alone", "beside", "control")}
    pairs = f"{ms['alone']} | {ms['beside']} | {one['ratio']:.2f} | {ms['control']} | {one['control_ratio']:.2f}"
    counts = f"{one['pulls']} | {one['asked_in_control']} | {one['bytes_moved'] / 1e6:.0f}"
    return f"| {number} | {pairs} | {counts} |"


if __name__ == "__main__":
    sys.exit(main())
