"""What the operator adds to the bare API calls that anybody would have to make.

    python -m bench.operator [--fleets 50] [--changes 200] [--churn 500] [--write]

On one control plane, in turns: bare server-side applies of the very children (the floor), an operator of plain kopf
handlers that makes the same children, and Tandem's. Each births the same number of fleets and then changes one size
after the other; a watch of our own sees the Deployment that follows. `--churn N` creates and deletes N fleets, and
tells how Tandem's memory grows meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.operator.children import Template, read_template
from bench.operator.churn import measure_churn
from bench.operator.handlers import run_handlers

from cluster.api import Cluster, ephemeral_cluster
from cluster.spec import ClusterSpec
from scale.api import FLEETS, Api, connect
from scale.population import build_fleet, install_definitions
from scale.report import Report
from scale.subject import Subject, run_operator
from tandem_operator.credentials import read_kubeconfig

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "operator.json"
PATIENCE_S = 120.0

Change = Callable[[str, int], Awaitable[Any]]


async def measure_births(api: Api, prefix: str, count: int, create: Callable[[str], Awaitable[Any]]) -> list[float]:
    """Before the fleet is sent → its decode Deployment seen, ms."""
    took = []
    for index in range(count):
        seen = api.expect(f"{prefix}{index}", "decode", 0)
        began = time.perf_counter()
        await create(f"{prefix}{index}")
        took.append(1000 * (await asyncio.wait_for(seen, PATIENCE_S) - began))
    return took


async def measure_changes(api: Api, prefix: str, options: argparse.Namespace, change: Change) -> list[float]:
    """Before the change is sent → the Deployment seen at its new size, ms."""
    took = []
    for index in range(options.changes):
        name, replicas = f"{prefix}{index % options.fleets}", 1 + index // options.fleets
        seen = api.expect(name, "decode", replicas)
        began = time.perf_counter()
        await change(name, replicas)
        took.append(1000 * (await asyncio.wait_for(seen, PATIENCE_S) - began))
        await asyncio.sleep(options.pause_s)  # pods come and go after each change, on the same cores
    return took


async def measure_operated(api: Api, report: Report, name: str, subject: Subject, options: argparse.Namespace) -> None:
    """Births and changes by whoever watches InferenceDeployments just now."""
    prefix = f"{name}-"
    cpu_s, calls = subject.cpu_s(), subject.writes()
    births = await measure_births(
        api, prefix, options.fleets, lambda fleet: api.send("POST", FLEETS, build_fleet(fleet, 0, 0))
    )
    report.add_latencies(f"{name}: fleet created → children applied", births)
    changes = await measure_changes(
        api,
        prefix,
        options,
        lambda fleet, size: api.merge(f"{FLEETS}/{fleet}", {"spec": {"decode": {"replicas": size}}}),
    )
    report.add_latencies(f"{name}: size changed → Deployment applied", changes)
    report.add(
        f"{name}: processor", 1000 * (subject.cpu_s() - cpu_s) / (options.fleets + options.changes), "ms a change"
    )
    report.add(f"{name}: memory", subject.rss_mib(), "MiB")
    if calls or subject.writes():
        report.add(f"{name}: writes", (subject.writes() - calls) / (options.fleets + options.changes), "a change")


async def measure_floor(api: Api, report: Report, template: Template, options: argparse.Namespace) -> None:
    """The same children by bare server-side applies, one connection, no decisions."""

    async def create(fleet: str) -> None:
        await asyncio.gather(*(api.apply(path, body, "floor") for path, body in template.render(fleet, 0)))

    async def change(fleet: str, size: int) -> None:
        await api.apply(*template.render_decode(fleet, size), "floor")

    report.add_latencies("floor: children applied", await measure_births(api, "floor-", options.fleets, create))
    report.add_latencies("floor: Deployment applied", await measure_changes(api, "floor-", options, change))


async def measure(cluster: Cluster, folder: Path, report: Report, options: argparse.Namespace) -> None:
    """Tandem first, because its children are the others' template."""
    async with connect(read_kubeconfig(cluster.kubeconfig)) as api:
        with run_operator(cluster, folder) as subject:
            await measure_operated(api, report, "tandem", subject, options)
            if options.churn:
                await measure_churn(api, report, subject, options.churn)
        template = await read_template(api, "tandem-0")
        await delete_all(api)
        with run_handlers(cluster, folder, template) as handlers:
            await measure_operated(api, report, "handlers", handlers, options)
        await delete_all(api)
        await measure_floor(api, report, template, options)


async def delete_all(api: Api) -> None:
    """Whoever comes next finds no fleet."""
    await api.send("DELETE", FLEETS)
    while await api.fetch_all(FLEETS):  # noqa: ASYNC110 - the server's work, not a task of ours
        await asyncio.sleep(0.5)


@contextmanager
def control_plane() -> Iterator[Cluster]:
    """A cluster with our kinds and three KWOK nodes."""
    with ephemeral_cluster(ClusterSpec(name=f"bench-operator-{os.getpid()}", kwok_nodes=3)) as cluster:
        install_definitions(cluster)
        yield cluster


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.operator", description=__doc__.split("\n")[0])
    parser.add_argument("--fleets", type=int, default=50)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--pause-s", type=float, default=0.2, help="between two changes")
    parser.add_argument("--churn", type=int, default=0, help="fleets to create and delete; 100000 takes hours")
    parser.add_argument("--write", action="store_true", help=f"to {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    report = Report(f"{options.fleets} fleets, {options.changes} changes, churn of {options.churn}")
    print(f"{report.title}; load of the machine {os.getloadavg()[0]:.1f}", flush=True)
    with control_plane() as cluster, tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(cluster, Path(folder), report, options))
    print(f"load of the machine {os.getloadavg()[0]:.1f}")
    if options.write:
        report.write(RESULTS)


if __name__ == "__main__":
    main()
