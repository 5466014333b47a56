"""1,000 fleets of 10 workers each on nodes that only pretend, and one operator: what it takes, against its limits.

    python -m scale [--fleets 1000] [--workers 10] [--changes 200] [--write FILE]

Ends with 1 when a figure passes its limit. The limits are those of an otherwise idle machine: the load is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cluster.api import Cluster, down_abandoned, ephemeral_cluster
from cluster.spec import ClusterSpec, NodeCapacity
from scale.api import FLEETS, Api, at_once, connect
from scale.population import build_fleet, install_definitions
from scale.report import Report
from scale.subject import Subject, run_operator
from tandem_operator.credentials import read_kubeconfig

PODS_PER_NODE = 1100
REST_S = 30.0
SETTLE_PATIENCE_S = 2400.0
P50_MS, P99_MS, RSS_MIB, RESTART_S = 50.0, 500.0, 300.0, 10.0


def start_cluster(nodes: int) -> Any:
    """A control plane whose nodes take many pods."""
    capacity = NodeCapacity(cpu="100000", memory="1000Ti", pods=PODS_PER_NODE)
    spec = ClusterSpec(name=f"scale-{os.getpid()}", kwok_nodes=nodes, capacity=capacity)
    return ephemeral_cluster(spec)


async def wait_settled(api: Api, ready: str) -> None:
    """Until every fleet says that it has its workers."""
    deadline = time.monotonic() + SETTLE_PATIENCE_S
    while True:
        fleets = await api.fetch_all(FLEETS)
        waiting = sum((fleet.get("status") or {}).get("readyText") != ready for fleet in fleets)
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{waiting} fleets are not {ready}")
        print(f"  {len(fleets) - waiting} of {len(fleets)} fleets are {ready}", flush=True)
        await asyncio.sleep(10)


async def measure_changes(api: Api, fleets: int, count: int, decode: int) -> list[float]:
    """spec.decode.replicas accepted → the Deployment seen at that size, ms, one after the other."""
    took = []
    for index in range(count):
        name, replicas = f"f{index * 7 % fleets}", decode + 1 + index // fleets
        seen = api.expect(name, "decode", replicas)
        await api.merge(f"{FLEETS}/{name}", {"spec": {"decode": {"replicas": replicas}}})
        began = time.perf_counter()
        took.append(1000 * (await asyncio.wait_for(seen, 120) - began))
        await asyncio.sleep(0.2)
    return took


async def measure_rest(subject: Subject, report: Report) -> None:
    """Nothing is asked for; what does the operator do?"""
    await asyncio.sleep(5)
    writes, reads, cpu_s = subject.writes(), subject.calls("get"), subject.cpu_s()
    await asyncio.sleep(REST_S)
    report.add(f"writes at rest, {REST_S:.0f} s", subject.writes() - writes, "", 0)
    report.add(f"GETs at rest, {REST_S:.0f} s", subject.calls("get") - reads, "", 0)
    report.add("processor at rest", 100 * (subject.cpu_s() - cpu_s) / REST_S, "% of a core", 20)


async def populate(api: Api, subject: Subject, report: Report, options: argparse.Namespace) -> str:
    """All fleets, created as fast as the API server takes them; returns what each must say in the end."""
    prefill = options.workers * 4 // 10
    decode = options.workers - prefill
    names = [f"f{index}" for index in range(options.fleets)]
    began = time.monotonic()
    await at_once(functools.partial(api.send, "POST", FLEETS, build_fleet(name, prefill, decode)) for name in names)
    report.add(f"creation of {options.fleets} fleets accepted", time.monotonic() - began, "s")
    ready = f"P {prefill}/{prefill} D {decode}/{decode}"
    await wait_settled(api, ready)
    report.add(f"all {options.fleets * options.workers} workers ready", time.monotonic() - began, "s")
    report.add("processor of the operator for it", 1000 * subject.cpu_s() / options.fleets, "ms a fleet")
    return ready


async def measure_first(cluster: Cluster, folder: Path, report: Report, options: argparse.Namespace) -> None:
    """From nothing to all fleets, then rest."""
    async with connect(read_kubeconfig(cluster.kubeconfig)) as api:
        with run_operator(cluster, folder) as subject:
            await populate(api, subject, report, options)
            await measure_rest(subject, report)
            report.add("memory of the operator", subject.rss_mib(), "MiB", RSS_MIB)


async def measure_second(cluster: Cluster, folder: Path, report: Report, options: argparse.Namespace) -> None:
    """A new process on what the first one made, then changes."""
    decode = options.workers - options.workers * 4 // 10
    async with connect(read_kubeconfig(cluster.kubeconfig)) as api:
        began = time.monotonic()
        with run_operator(cluster, folder) as subject:
            while subject.reconciled() < options.fleets:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
            report.add("restart: every fleet looked at after", time.monotonic() - began, "s", RESTART_S)
            await asyncio.sleep(5)
            report.add("writes at restart", subject.writes(), "", 0)
            took_ms = await measure_changes(api, options.fleets, options.changes, decode)
            report.add_latencies("spec change → Deployment applied", took_ms, (P50_MS, P99_MS))
            report.add("memory of the restarted operator", subject.rss_mib(), "MiB", RSS_MIB)


def main() -> int:
    """Runs it; 1 when a figure passed its limit."""
    parser = argparse.ArgumentParser(prog="python -m scale", description=__doc__.split("\n")[0])
    parser.add_argument("--fleets", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=10, help="of each fleet: four tenths prefill, the rest decode")
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--write", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    nodes = options.fleets * options.workers * 2 // PODS_PER_NODE + 2
    report = Report(f"{options.fleets} fleets of {options.workers} workers on {nodes} KWOK nodes")
    print(f"{report.title}; load of the machine {os.getloadavg()[0]:.1f}", flush=True)
    down_abandoned()
    with start_cluster(nodes) as cluster, tempfile.TemporaryDirectory() as folder:
        install_definitions(cluster)
        asyncio.run(measure_first(cluster, Path(folder), report, options))
        asyncio.run(measure_second(cluster, Path(folder), report, options))
    print(f"load of the machine {os.getloadavg()[0]:.1f}")
    if options.write:
        report.write(options.write)
    return 0 if report.is_met else 1


if __name__ == "__main__":
    sys.exit(main())
