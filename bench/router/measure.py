"""Starts every router, plays every scenario against each in turn, round after round, and keeps what was read."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.router.peers import Peer, PeerMissingError, Setting
from bench.router.processes import ROUTER_CORE, Process, free_port
from bench.router.program import LoadProgram, read_result
from bench.router.scenarios import (
    GAP_MS,
    HELD_EVENTS,
    HELD_GAP_MS,
    HELD_READ_AFTER_S,
    REQUEST,
    SCENARIOS,
    Scenario,
    held,
)

DIRECT = "direct"
START_TIMEOUT_S = 120.0
WARM_UP_SHARE = 0.1


@dataclass(frozen=True)
class Reading:
    """One scenario of one round, played against one router."""

    peer: str
    scenario: str
    cpu_us: float | None  # per request or event; None for direct answers
    first_byte_p50_us: float
    first_byte_p99_us: float
    event_p50_us: float
    event_p99_us: float
    failed: int
    failure: str


@dataclass
class Report:
    """All readings, and why some are missing."""

    readings: list[Reading] = field(default_factory=list)
    stream_bytes: dict[str, float] = field(default_factory=dict)  # memory per open stream
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """What every measurement needs. `pythons`: the interpreter of each peer that can be measured."""

    program: LoadProgram
    pythons: dict[str, str]
    folder: Path

    @contextmanager
    def engines(self, gap_ms: int) -> Iterator[list[int]]:
        """Ports of four engines."""
        process, ports = self.program.start_engines(gap_ms, self.folder / "engines.log")
        try:
            yield ports
        finally:
            process.stop()

    @contextmanager
    def router(self, peer: Peer, engines: list[int], *, is_split: bool) -> Iterator[tuple[Process, int]]:
        """`peer`, answering.

        Raises:
            PeerMissingError: it does not answer in time.
        """
        setting = Setting(self.pythons[peer.name], free_port(), free_port(), engines, is_split, self.folder)
        log = self.folder / f"{peer.name}-{'split' if is_split else 'plain'}.log"
        process = Process.start(peer.command(setting), ROUTER_CORE, log, peer.environment)
        try:
            self._wait(peer, process, setting.port, log)
            yield process, setting.port
        finally:
            process.stop()

    def _wait(self, peer: Peer, process: Process, port: int, log: Path) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        result: dict[str, Any] = {}
        while process.is_running and time.monotonic() < deadline_s:
            result = self.program.run_clients(port, ["-requests", "1", "-concurrency", "1", "-salt", "start"])
            if not result["failed"]:
                return
            time.sleep(0.5)
        tail = log.read_text()[-300:].strip()
        raise PeerMissingError(f"{peer.name} did not answer: {result.get('failure', '')} {tail}")


def measure_rounds(bench: Bench, peers: Sequence[Peer], rounds: int, report: Report) -> None:
    """Play every scenario; plain and split routers are up one after the other."""
    for is_split in (False, True):
        scenarios = [one for one in SCENARIOS if one.is_split == is_split]
        able = [peer for peer in peers if peer.splits or not is_split]
        with bench.engines(GAP_MS) as engines, routers(bench, able, engines, report, is_split=is_split) as running:
            for number in range(rounds):
                for scenario in scenarios:
                    report.readings += play_round(bench, scenario, running, engines, number)


@contextmanager
def routers(
    bench: Bench, peers: Sequence[Peer], engines: list[int], report: Report, *, is_split: bool
) -> Iterator[list[tuple[Peer, Process, int]]]:
    """All `peers` that come up; the others are told in `report`."""
    if not peers:
        yield []
        return
    head, *rest = peers
    try:
        entered = bench.router(head, engines, is_split=is_split)
        process, port = entered.__enter__()
    except PeerMissingError as error:
        report.missing[f"{head.name} split" if is_split else head.name] = str(error)
        with routers(bench, rest, engines, report, is_split=is_split) as others:
            yield others
        return
    try:
        with routers(bench, rest, engines, report, is_split=is_split) as others:
            yield [(head, process, port), *others]
    finally:
        entered.__exit__(None, None, None)


def play_round(
    bench: Bench, scenario: Scenario, running: Sequence[tuple[Peer, Process, int]], engines: list[int], number: int
) -> Iterator[Reading]:
    """One scenario against every router, in an order drawn anew each round."""
    order: list[tuple[Peer, Process, int] | None] = [*running]
    if scenario.events or scenario.is_latency:
        order.append(None)
    random.shuffle(order)
    for one in order:
        salt = f"{scenario.name}{number}"
        if one is None:
            result = bench.program.run_clients(engines[0], scenario.arguments(salt, 1.0))
            yield read(DIRECT, scenario, None, result)
        else:
            peer, process, port = one
            bench.program.run_clients(port, scenario.arguments(f"warm{salt}", peer.share * WARM_UP_SHARE))
            before_s = process.cpu_s()
            result = bench.program.run_clients(port, scenario.arguments(salt, peer.share))
            yield read(peer.name, scenario, process.cpu_s() - before_s, result)


def read(peer: str, scenario: Scenario, cpu_s: float | None, result: dict[str, Any]) -> Reading:
    """A reading from what the clients saw and the router spent."""
    units = result["events"] if scenario.events else result["requests"]
    return Reading(
        peer=peer,
        scenario=scenario.name,
        cpu_us=None if cpu_s is None or not units else cpu_s / units * 1e6,
        first_byte_p50_us=result["first_byte_us"]["p50"],
        first_byte_p99_us=result["first_byte_us"]["p99"],
        event_p50_us=result["event_us"]["p50"],
        event_p99_us=result["event_us"]["p99"],
        failed=result["failed"],
        failure=result.get("failure", ""),
    )


def measure_memory(bench: Bench, peers: Sequence[Peer], streams: int, report: Report) -> None:
    """Memory per open stream, each router alone and freshly started."""
    with bench.engines(HELD_GAP_MS) as engines:
        for peer in peers:
            try:
                with bench.router(peer, engines, is_split=False) as (process, port):
                    report.stream_bytes[peer.name] = stream_bytes(bench, peer, process, port, streams)
            except PeerMissingError as error:
                report.missing[f"{peer.name} memory"] = str(error)


def stream_bytes(bench: Bench, peer: Peer, process: Process, port: int, streams: int) -> float:
    """Bytes that `process` takes for each of `streams` open streams.

    Raises:
        PeerMissingError: not all of them were open at the moment of reading.
    """
    bench.program.run_clients(port, REQUEST.arguments("warm", peer.share * WARM_UP_SHARE))
    before = process.memory_bytes()
    scenario = held(max(10, round(streams * peer.share)))
    clients: subprocess.Popen[str] = bench.program.start_clients(port, scenario.arguments("held", 1.0))
    time.sleep(HELD_READ_AFTER_S)
    grown = process.memory_bytes() - before
    result = read_result(clients)
    if result["failed"] or result["seconds"] > HELD_READ_AFTER_S + HELD_EVENTS * HELD_GAP_MS / 1000:
        raise PeerMissingError(f"{peer.name} did not hold {scenario.requests} streams: {result.get('failure', 'late')}")
    return grown / scenario.requests
