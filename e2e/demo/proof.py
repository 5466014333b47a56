"""What the workers themselves say of the KV that moved, and the table that shows it."""

from __future__ import annotations

from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from demo.access import Access
from demo.asking import Answer
from demo.objects import Objects
from tandem_api import labels
from tandem_api.worker import KVCounters, WorkerState


def fetch_worker_state(access: Access, pod: Any) -> WorkerState:
    """`GET /tandem/v1/state` of one worker."""
    with access.open_port(pod, labels.ADMIN_PORT) as url:
        response = httpx.get(f"{url}/tandem/v1/state", timeout=5.0, trust_env=False).raise_for_status()
    return WorkerState.model_validate(response.json())


def fetch_counters(objects: Objects, access: Access, fleet: str, role: str) -> KVCounters:
    """Sum of the KV counters of a role's ready workers."""
    pods = objects.fetch_pods(f"{labels.FLEET}={fleet},{labels.ROLE}={role}")
    ready = [p for p in pods if any(c.type == "Ready" and c.status == "True" for c in p.status.conditions or [])]
    states = [fetch_worker_state(access, pod).kv for pod in ready]
    return KVCounters(**{name: sum(getattr(s, name) for s in states) for name in KVCounters.model_fields})


def difference(after: KVCounters, before: KVCounters) -> KVCounters:
    """What happened between two readings."""
    return KVCounters(**{name: getattr(after, name) - getattr(before, name) for name in KVCounters.model_fields})


def describe_pair(served_by: str) -> str:
    """`x-served-by` for people: which roles served, and the last part of each pod's name."""
    pods = [pod for pod in served_by.split(",") if pod]
    if not pods:
        return "unknown"
    short = [pod.rsplit("-", 1)[-1] for pod in pods]
    return f"prefill …{short[0]}, decode …{short[1]}" if len(pods) > 1 else f"decode …{short[0]} alone (local prefill)"


def show_proof(console: Console, answer: Answer, moved: KVCounters, is_equal: bool, compared: int) -> None:
    """Print the figures of one answer and of the KV behind all of them."""
    table = Table(title="The proof", title_justify="left", show_header=False)
    tpot = f"{answer.tpot_s * 1000:.1f} ms" if answer.tpot_s is not None else "-"
    for name, value in (
        ("completion tokens", str(answer.usage.get("completion_tokens"))),
        ("prompt tokens", str(answer.usage.get("prompt_tokens"))),
        ("time to first token", f"{answer.ttft_s * 1000:.0f} ms"),
        ("time per output token", tpot),
        ("served by", describe_pair(answer.served_by)),
        ("KV moved, prefill → decode", f"{moved.bytes_received:,} bytes in {moved.transfers} transfers"),
        ("prompt tokens taken from remote", f"{moved.remote_tokens:,}"),
        ("prompt tokens recomputed", f"{moved.recomputed_tokens:,}"),
        (
            "equal to a single instance",
            f"{'yes' if is_equal else 'NO'}, {compared} of {compared} prompts" if is_equal else "NO",
        ),
    ):
        table.add_row(name, value)
    console.print(table)
