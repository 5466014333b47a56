"""What KV transfer costs two real vLLM engines: are decode steps of others held up, and what do idle leases burn?

    TANDEM_WORKER_PYTHON=... PYTHONPATH=.:tests .venv/bin/python -m bench.kv.engines [--rounds 3] [--window-s 4]

Prefill is pinned to one core, decode to another. A window counts the gaps between the tokens of one long answer,
alone, and while prompts of 1,500 tokens are pulled one after another. Writes bench/results/kv-engines.json and .md.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from integration.kv.vllm_engine import Engine, complete_disaggregated, make_tiny_model, prefill, start_engine

RESULTS = Path(__file__).resolve().parents[1] / "results"
PROMPT_TOKENS, ANSWER_TOKENS = 1500, 1900
TARGET = 1.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
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
    """p90 of the gaps between tokens, alone and beside transfers."""
    alone_s = _gaps(decoder, window_s)
    before = decoder.stats()["bytes_received"]
    is_over = threading.Event()
    puller = threading.Thread(target=_pull_until, args=(is_over, prefiller, decoder))
    puller.start()
    beside_s = _gaps(decoder, window_s)
    is_over.set()
    puller.join()
    moved = decoder.stats()["bytes_received"] - before
    p90 = [quantiles(gaps, n=10)[-1] for gaps in (alone_s, beside_s)]
    return {"alone_p90_s": p90[0], "beside_p90_s": p90[1], "ratio": p90[1] / p90[0], "bytes_moved": moved}


def _pull_until(is_over: threading.Event, prefiller: Engine, decoder: Engine) -> None:
    while not is_over.is_set():
        complete_disaggregated(prefiller, decoder, _make_prompt(), max_tokens=1)


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
    ratio = median(one["ratio"] for one in document["rounds"])
    lines = ["# KV transfer beside decoding, real vLLM on CPU", ""]
    lines += [
        "| round | p90 gap alone, ms | beside transfers, ms | ratio | MB moved |",
        "|---|---|---|---|---|",
    ]
    for number, one in enumerate(document["rounds"], 1):
        gaps = f"{one['alone_p90_s'] * 1e3:.2f} | {one['beside_p90_s'] * 1e3:.2f}"
        lines.append(f"| {number} | {gaps} | {one['ratio']:.2f} | {one['bytes_moved'] / 1e6:.0f} |")
    lines += ["", f"Median ratio {ratio:.2f} (target <= {TARGET}: {'met' if ratio <= TARGET else 'MISSED'}).", ""]
    for name, shares in document["idle_cpu_share"].items():
        lines.append(f"- idle, {name}: prefill {shares[0]:.0%}, decode {shares[1]:.0%} of a core")
    lines.append(f"- load of the machine when it ended: {document['load_at_end']}")
    page = "\n".join(lines) + "\n"
    print(page)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "kv-engines.json").write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / "kv-engines.md").write_text(page)


if __name__ == "__main__":
    sys.exit(main())
