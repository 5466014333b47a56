"""Fleets that come and go by the thousand: does the operator's memory grow with what has been?"""

from __future__ import annotations

import asyncio
import functools

from scale.api import FLEETS, Api, at_once
from scale.population import build_fleet
from scale.report import Report
from scale.subject import Subject

BATCH = 50
WARM_BATCHES = 4  # caches fill, the allocator takes its first arenas


async def measure_churn(api: Api, report: Report, subject: Subject, count: int) -> None:
    """Creates and deletes `count` fleets in batches, and fits a line through the memory after each."""
    sizes_mib: list[float] = []
    for batch in range(max(count // BATCH, WARM_BATCHES + 2)):
        names = [f"churn-{batch}-{index}" for index in range(BATCH)]
        await at_once(functools.partial(api.send, "POST", FLEETS, build_fleet(name, 0, 0)) for name in names)
        await asyncio.sleep(0.5)
        await at_once(functools.partial(api.send, "DELETE", f"{FLEETS}/{name}") for name in names)
        await wait_gone(api)
        sizes_mib.append(subject.rss_mib())
    warm = sizes_mib[WARM_BATCHES:]
    fleets = BATCH * (len(warm) - 1)
    report.add(f"churn: memory after {BATCH * WARM_BATCHES} fleets", warm[0], "MiB")
    report.add(f"churn: growth over {fleets} more, created and deleted", 100 * (warm[-1] / warm[0] - 1), "%")
    report.add("churn: slope of the fitted line", 1024 * fit_slope(warm) / BATCH, "KiB a fleet")


async def wait_gone(api: Api) -> None:
    """Until the batch is no more."""
    while await count_left(api):  # noqa: ASYNC110 - the work of another process
        await asyncio.sleep(0.2)


async def count_left(api: Api) -> int:
    return sum(fleet["metadata"]["name"].startswith("churn-") for fleet in await api.fetch_all(FLEETS))


def fit_slope(values: list[float]) -> float:
    """Least squares over the index."""
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    spread = sum((index - middle) ** 2 for index in range(len(values)))
    return sum((index - middle) * (value - mean) for index, value in enumerate(values)) / spread
