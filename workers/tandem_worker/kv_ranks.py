"""The KV connector's ranks, seen from the supervisor through their unix sockets."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tandem_api.worker import KVCounters, KVLoad
from tandem_worker.kv.local import LocalError, apply_release, apply_release_params, fetch_load, fetch_stats


@dataclass(frozen=True)
class KVReport:
    """All ranks together. `answering` is False when one of them did not answer."""

    answering: bool = True
    leases: int = 0
    counters: KVCounters = field(default_factory=KVCounters)
    failures: Mapping[str, int] = field(default_factory=dict)  # reason → count
    sessions: int = 0
    circuits_open: tuple[str, ...] = ()  # addresses of prefill workers
    fallbacks: Mapping[str, int] = field(
        default_factory=dict
    )  # reason → sessions over another transport than asked for
    fallback: str | None = None  # why KV does not move over the transport asked for, now
    stuck: str | None = None  # why only a restart helps
    communicators: int = 0
    communicator_bytes: int = 0


class KVRanks:
    """One socket per tensor-parallel rank, in `run_dir`; none in a pool that hands nothing over."""

    def __init__(self, run_dir: Path, ranks: int) -> None:
        self._sockets = [run_dir / f"kv-{rank}.sock" for rank in range(ranks)]

    async def fetch_report(self) -> KVReport:
        """Ask all ranks; one that does not answer makes the report say so, never an exception."""
        answers = await asyncio.gather(*map(fetch_stats, self._sockets), return_exceptions=True)
        stats = [answer for answer in answers if isinstance(answer, dict)]
        _raise_surprises(answers)
        return sum_ranks(stats, answering=len(stats) == len(self._sockets))

    async def fetch_load(self, remote_request_id: str) -> KVLoad | None:
        """What came of one of the last loads; None when a rank does not know of it. Raises LocalError."""
        return sum_loads(await asyncio.gather(*(fetch_load(socket, remote_request_id) for socket in self._sockets)))

    async def apply_release(self, request_id: str) -> int:
        """End the leases of a request on every rank. Raises LocalError."""
        return sum(await asyncio.gather(*(apply_release(socket, request_id) for socket in self._sockets)))

    async def apply_release_params(self, params: dict[str, Any]) -> int:
        """End the leases that signed parameters name, on every rank. Raises LocalError."""
        return sum(await asyncio.gather(*(apply_release_params(socket, params) for socket in self._sockets)))


def sum_ranks(stats: Sequence[Mapping[str, Any]], *, answering: bool = True) -> KVReport:
    """Add up what the ranks report. Leases are the largest of them: each rank holds a share of the same requests."""
    failures: Counter[str] = Counter()
    fallbacks: Counter[str] = Counter()
    for rank in stats:
        failures.update(rank.get("failures", {}))
        fallbacks.update(rank.get("fallbacks", {}))
    totals = {name: sum(rank.get(name, 0) for rank in stats) for name in KVCounters.model_fields if name != "failures"}
    return KVReport(
        answering=answering,
        leases=max((rank.get("leases", 0) for rank in stats), default=0),
        counters=KVCounters(**totals, failures=failures.total()),
        failures=dict(failures),
        sessions=sum(rank.get("sessions", 0) for rank in stats),
        circuits_open=tuple(sorted({_address(peer) for rank in stats for peer in rank.get("circuits_open", ())})),
        fallbacks=dict(fallbacks),
        fallback=_first(stats, "fallback"),
        stuck=_first(stats, "stuck"),
        communicators=sum(rank.get("communicators", 0) for rank in stats),
        communicator_bytes=sum(rank.get("communicator_bytes", 0) for rank in stats),
    )


def sum_loads(parts: Sequence[Mapping[str, Any] | None]) -> KVLoad | None:
    """One load from what each rank took of it: bytes add up, tokens are of the rank that got the fewest."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    fewest = min(known, key=lambda part: int(part["remote_tokens"]))
    return KVLoad.model_validate({**fewest, "bytes_received": sum(part["bytes_received"] for part in known)})


def _first(stats: Sequence[Mapping[str, Any]], name: str) -> str | None:
    """What the first rank says that has something to say."""
    return next((rank[name] for rank in stats if rank.get(name)), None)


def _address(peer: str) -> str:
    """Of `address:port`. Ranks of one worker differ in their port alone."""
    return peer.rpartition(":")[0]


def _raise_surprises(answers: Sequence[object]) -> None:
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, LocalError):
            raise answer
