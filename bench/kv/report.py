"""Samples as a table, ratios and JSON."""

import os
import platform
from dataclasses import asdict
from statistics import median
from typing import Any

from bench.kv.pair import Transfer
from bench.kv.shape import REQUEST_BYTES

TITLES = {
    "raw": "raw socket, contiguous, same chunks",
    "tandem": "Tandem `tcp`, whole path",
    "gloo": "gloo, staged chunks",
    "nixl": "NIXL (UCX over TCP)",
}
# (ours, theirs) -> the least ratio of their speeds that DESIGN asks for
TARGETS = {("tandem", "raw"): 0.6, ("tandem", "nixl"): 3.0}
Rounds = dict[str, list[list[Transfer]]]  # by scheme: the transfers of each round


def compute_ratios(rounds: Rounds) -> dict[str, float]:
    """Speed of Tandem over each other scheme: of a round the ratio of medians, of the rounds the median."""
    ours = rounds.get("tandem", [])
    return {
        f"tandem/{name}": median(_median_s(b) / _median_s(a) for a, b in zip(ours, theirs, strict=True))
        for name, theirs in rounds.items()
        if ours and name != "tandem"
    }


def _median_s(transfers: list[Transfer]) -> float:
    return median(transfer.seconds for transfer in transfers)


def build_table(rounds: Rounds, missing: dict[str, str]) -> str:
    """Markdown."""
    lines = [
        "| scheme | GB/s (median of rounds; each round) | best GB/s | CPU ms per transfer, prefill / decode |",
        "|---|---|---|---|",
    ]
    lines += [_row(name, taken) for name, taken in rounds.items()]
    lines += [f"| {TITLES[name]} | not measured: {reason} | | |" for name, reason in missing.items()]
    return "\n".join(lines)


def _row(name: str, taken: list[list[Transfer]]) -> str:
    speeds = [REQUEST_BYTES / _median_s(transfers) / 1e9 for transfers in taken]
    every = [transfer for transfers in taken for transfer in transfers]
    each = ", ".join(f"{speed:.2f}" for speed in speeds)
    best = max(transfer.gb_per_s for transfer in every)
    cpu = [median(cpu_s) * 1e3 for cpu_s in zip(*((t.prefill_cpu_s, t.decode_cpu_s) for t in every), strict=True)]
    return f"| {TITLES[name]} | {median(speeds):.2f} ({each}) | {best:.2f} | {cpu[0]:.0f} / {cpu[1]:.0f} |"


def describe_ratios(ratios: dict[str, float]) -> str:
    """One line per ratio, with its target and whether it was met."""
    lines = []
    for pair, ratio in ratios.items():
        ours, theirs = pair.split("/")
        target = TARGETS.get((ours, theirs))
        verdict = "" if target is None else f" (target >= {target:g}: {'met' if ratio >= target else 'MISSED'})"
        lines.append(f"- {pair}: {ratio:.2f}{verdict}")
    return "\n".join(lines)


def build_document(rounds: Rounds, missing: dict[str, str], setting: dict[str, Any]) -> dict[str, Any]:
    """What bench/results/kv.json holds."""
    return {
        "request_bytes": REQUEST_BYTES,
        "setting": setting,
        "machine": {
            "cpus": os.cpu_count(),
            "system": platform.platform(),
            "load": round(os.getloadavg()[0], 1),
        },
        "rounds": {name: [list(map(asdict, transfers)) for transfers in taken] for name, taken in rounds.items()},
        "ratios": compute_ratios(rounds),
        "not_measured": missing,
    }


def build_page(document: dict[str, Any], rounds: Rounds) -> str:
    """What bench/results/kv.md holds."""
    setting, machine = document["setting"], document["machine"]
    return "\n".join(
        [
            "# KV transfer over loopback",
            "",
            "128 MiB of KV: 64 scattered blocks of 16 tokens of Llama-3-8B shape (32 layers, 8 KV heads of 128, bf16),",
            "per-layer layout, so 2,048 pieces of 64 KiB on each side. Gather, scatter, and for Tandem the lease, the",
            f"signed ticket and the control channel are inside the clock. {setting['rounds']} rounds of fresh",
            f"processes; in a round, after a warm-up, the schemes take turns, {setting['repeats']} transfers each, and",
            f"medians count; chunks of {setting['chunk_bytes'] >> 20} MiB; every byte checked.",
            f"Machine: {machine['cpus']} CPUs, load {machine['load']} when it ended. Made by `make bench-kv`.",
            "",
            build_table(rounds, document["not_measured"]),
            "",
            describe_ratios(document["ratios"]),
            "",
        ]
    )
