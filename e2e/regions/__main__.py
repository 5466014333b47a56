"""Three real regions on one machine, hurt in every way; fails on a lost request or a breach of residency.

python -m regions [--only NAME ...] [--write FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from demo.installation import EXAMPLES
from regions.hops import fetch_hops
from regions.load import Load
from regions.report import Outcome, Span, judge, show
from regions.scenarios import SCENARIOS, Scenario
from regions.setup import KEYS, allowed_regions
from regions.slices import find_faults_of_slices
from regions.watch import Watch
from regions.world import NAMES, World, three_regions

RATE = {"anywhere": 3.0, "eu-only": 1.0, "not-us": 1.0}  # requests per second, in each region
WARM_UP_S = 5.0
MAY_BE_UNDER_WAY = 20  # requests
WHOLE_S = 60.0  # a region that comes back gets its share over 30 s


PREFACE = """\
# Regions, end to end

`make e2e-regions WRITE=bench/results/e2e-regions.md`: three Kubernetes clusters, each with its operator, router and
engines of type `sim`, joined by lines that are slow, lossy or cut ([docs/regions.md](../../docs/regions.md)). Away:
share of the answers that another region gave, while it hurt. No way: refused with a typed error, because no allowed
region could be reached. Cut: ended after its first byte, with a typed error. Found: from the fault until a router
called the region down, looked at every 100 ms. Whole again: from the healing until every region gives every other one
its whole share (a ramp of 30 s). Swings: of the share that leaves, by half or more. Downs: times that a router called
a region down.
"""


class NeverMet(Exception):  # noqa: N818
    """The regions never began to serve for one another; the message says what each believes."""


async def play(world: World, scenarios: Sequence[Scenario]) -> tuple[list[Outcome], list[str]]:
    """All scenarios, one after the other, under one load; what was wrong before they began."""
    load, watch, stop = Load(world, build_rates()), Watch(world), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(watch.run(stop))
        if not await watch.until_all_up(WHOLE_S):
            raise NeverMet(f"the regions did not find one another within {WHOLE_S:.0f} s: {watch.beliefs()}")
        faults = [fault async for fault in find_faults_of_slices(world)]
        print(f"  slices: {'; '.join(faults) or 'as the manifest says'}", flush=True)
        asking = group.create_task(load.run(stop))
        await asyncio.sleep(WARM_UP_S)
        spans, before = [], await fetch_hops(world)
        for one in scenarios:
            spans.append(await _hurt(one, world, load, watch))
            after = await fetch_hops(world)
            print(f"    {after.since(before)}", flush=True)
            faults += [f"{one.name}: {fault}" for fault in after.since(before).faults(MAY_BE_UNDER_WAY)]
            before = after
        stop.set()
        await asking
    allowed = read_allowed()
    return [judge(one, load.ledger, span, watch, allowed) for one, span in zip(scenarios, spans, strict=True)], faults


async def _hurt(scenario: Scenario, world: World, load: Load, watch: Watch) -> Span:
    hurt_s = time.monotonic()
    await scenario.hurt(world, load)
    await asyncio.sleep(scenario.hold_s)
    healed_s = time.monotonic()
    if scenario.heal is not None:
        await scenario.heal(world, load)
    is_whole = await watch.until_all_up(WHOLE_S)
    over_s = time.monotonic()
    print(f"  {scenario.name}: {over_s - hurt_s:.0f} s", flush=True)
    return Span(hurt_s, healed_s, over_s, over_s if is_whole else None)


def build_rates() -> dict[tuple[str, str], float]:
    """By region and tenant."""
    return {(region, tenant): RATE[tenant] for region in NAMES for tenant in KEYS}


def read_allowed() -> dict[str, frozenset[str]]:
    """Tenant → regions, by the labels of the example."""
    documents = yaml.safe_load_all((EXAMPLES / "regions" / "regions.yaml").read_text())
    return allowed_regions({one["metadata"]["name"]: one["spec"].get("labels", {}) for one in documents})


def choose(names: Sequence[str]) -> list[Scenario]:
    """Scenarios by name, all without one."""
    known = {one.name: one for one in SCENARIOS}
    for name in names:
        if name not in known:
            raise SystemExit(f"--only {name!r}: there is {', '.join(known)}")
    return [one for one in SCENARIOS if not names or one.name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 when something is wrong with it."""
    parser = argparse.ArgumentParser(prog="python -m regions", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="scenario; may be given again")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the table, too")
    options = parser.parse_args(arguments)
    scenarios = choose(options.only)
    with tempfile.TemporaryDirectory(prefix="tandem-regions-") as folder, three_regions(Path(folder)) as world:
        print(f"three regions are up; load {os.getloadavg()[0]:.1f}", flush=True)
        try:
            outcomes, faults = asyncio.run(play(world, scenarios))
        except* NeverMet as group:
            raise SystemExit(f"e2e-regions: {group.exceptions[0]}") from None
    table = "\n".join([*show(outcomes), f"Load average at the end: {os.getloadavg()[0]:.1f}."])
    print(table)
    faults += [f"{outcome.scenario.name}: {fault}" for outcome in outcomes for fault in outcome.faults()]
    verdict = "\n".join(f"- {fault}" for fault in faults) or "Nothing is wrong with it."
    print(verdict)
    if options.write:
        options.write.write_text(f"{PREFACE}\n{table}\n\n{verdict}\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
