"""Probes: counting results against thresholds (pure), and the loop that asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cluster.process_node.checks import CheckResult
from cluster.process_node.objects import JsonObject


@dataclass(frozen=True)
class Schedule:
    initial_delay_s: float
    period_s: float
    timeout_s: float
    success_threshold: int
    failure_threshold: int


def parse_schedule(probe: JsonObject) -> Schedule:
    """The probe's numbers, with Kubernetes' defaults for what is not set."""
    return Schedule(
        initial_delay_s=float(probe.get("initialDelaySeconds") or 0),
        period_s=float(probe.get("periodSeconds") or 10),
        timeout_s=float(probe.get("timeoutSeconds") or 1),
        success_threshold=int(probe.get("successThreshold") or 1),
        failure_threshold=int(probe.get("failureThreshold") or 3),
    )


@dataclass(frozen=True)
class Streak:
    """Equal results in a row."""

    ok: bool = False
    length: int = 0

    def after(self, ok: bool) -> Streak:
        return Streak(ok, self.length + 1 if ok == self.ok else 1)

    def verdict(self, schedule: Schedule) -> bool | None:
        """True or False once enough equal results came in a row; None before."""
        enough = schedule.success_threshold if self.ok else schedule.failure_threshold
        return self.ok if self.length >= enough else None


Check = Callable[[float], Awaitable[CheckResult]]
"""Asks once, with a timeout in seconds."""


async def watch_probe(schedule: Schedule, check: Check, report: Callable[[bool | None, CheckResult], None]) -> None:
    """Asks for ever; reports every result with the verdict so far."""
    await asyncio.sleep(schedule.initial_delay_s)
    streak = Streak()
    while True:
        result = await check(schedule.timeout_s)
        streak = streak.after(result.ok)
        report(streak.verdict(schedule), result)
        await asyncio.sleep(schedule.period_s)
