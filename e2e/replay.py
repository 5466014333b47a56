"""Plays a trace against a router in real time, and keeps the account of every request."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from tandem_simulator.traffic.model import Trace

BYTES_PER_TOKEN = 4  # of engine sim, and of the router's estimate
TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Played:
    """How one request ended. Times in seconds as the client saw them; `fault` is None for a whole answer."""

    arrival_s: float
    ttft_s: float = float("nan")
    tpot_s: float = 0.0
    fault: str | None = None


@dataclass
class Ledger:
    """Every request, once."""

    entries: list[Played] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return [one.fault for one in self.entries if one.fault is not None]

    def attainment(self, targets_s: dict[float, float], tpot_s: float) -> float:
        """Share that met both targets; `targets_s`: TTFT target by arrival."""
        met = [
            one.fault is None and one.ttft_s <= targets_s[one.arrival_s] and one.tpot_s <= tpot_s
            for one in self.entries
        ]
        return sum(met) / max(1, len(met))

    def percentile(self, name: str, share: int) -> float:
        return float(np.nanpercentile([getattr(one, name) for one in self.entries], share))


def thin(trace: Trace, every: int) -> Trace:
    """Every so-many-th request of a trace."""
    chosen = slice(0, None, every)
    return Trace(trace.arrival_s[chosen], trace.input_tokens[chosen], trace.output_tokens[chosen])


async def play(url: str, model: str, trace: Trace) -> Ledger:
    """Ask each request at its time, however long the others take."""
    ledger = Ledger()
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S, limits=limits) as client,
        asyncio.TaskGroup() as group,
    ):
        began_s = time.monotonic()
        rows = zip(trace.arrival_s.tolist(), trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True)
        for number, (arrival_s, prompt, output) in enumerate(rows):
            await asyncio.sleep(max(0.0, began_s + arrival_s - time.monotonic()))
            body = build_body(model, number, prompt, output)
            group.create_task(_ask(client, url, body, arrival_s, ledger))
    return ledger


def build_body(model: str, number: int, prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    """A prompt of that length which shares no prefix with any other."""
    text = f"{number:08d} " + "replay " * prompt_tokens
    return {
        "model": model,
        "prompt": text[: prompt_tokens * BYTES_PER_TOKEN],
        "max_tokens": output_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _ask(client: httpx.AsyncClient, url: str, body: dict[str, Any], arrival_s: float, ledger: Ledger) -> None:
    began_s = time.monotonic()
    first_s = last_s = None
    tokens, fault = 0, None
    try:
        async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
            if response.is_error:
                fault = f"{response.status_code}: {(await response.aread())[:300]!r}"
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    last_s = time.monotonic() if '"usage": {' not in line else last_s
                    first_s = first_s or last_s
                    tokens, fault = _read(line, tokens, fault)
    except httpx.HTTPError as error:
        fault = repr(error)
    if fault is None and (first_s is None or last_s is None or tokens != body["max_tokens"]):
        fault = f"{tokens} of {body['max_tokens']} tokens"
    if fault is not None or first_s is None or last_s is None:
        ledger.entries.append(Played(arrival_s, fault=fault))
        return
    ledger.entries.append(Played(arrival_s, first_s - began_s, (last_s - first_s) / max(1, tokens - 1)))


def _read(line: str, tokens: int, fault: str | None) -> tuple[int, str | None]:
    """Only the last event and errors are parsed: the client shares its processor with the fleet."""
    if '"usage": {' in line:
        return int(json.loads(line[len("data: ") :])["usage"]["completion_tokens"]), fault
    if '"error"' in line:
        return tokens, line[:300]
    return tokens, fault
