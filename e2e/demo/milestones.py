"""Wait until fleets are ready, with a bar per worker that moves at each milestone of its pod."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from demo.errors import DemoError
from demo.objects import Objects

MILESTONES = ("waiting for a node", "starting", "code in place", "loading the engine", "ready")
POLL_S = 0.5
FLEET_LABEL = "tandem.dev/fleet"


def milestone_of(pod: Any) -> int:
    """Index into `MILESTONES` of what a pod has reached."""
    held = {c.type for c in pod.status.conditions or [] if c.status == "True"}
    for index, condition in ((4, "Ready"), (2, "Initialized"), (1, "PodScheduled")):
        if condition in held:
            running = index == 2 and any(s.state.running for s in pod.status.container_statuses or [])
            return 3 if running else index
    return 0


def condition_of(fleet: dict[str, Any], kind: str) -> dict[str, Any]:
    """One condition of an InferenceDeployment, or an empty one."""
    conditions = fleet.get("status", {}).get("conditions", [])
    return next((dict(c) for c in conditions if c["type"] == kind), {})


def is_ready(fleet: dict[str, Any]) -> bool:
    """`Ready` holds for the newest generation."""
    ready = condition_of(fleet, "Ready")
    return ready.get("status") == "True" and ready.get("observedGeneration") == fleet["metadata"]["generation"]


def wait_until_ready(objects: Objects, fleets: list[str], console: Console, timeout_s: float) -> None:
    """Block until every fleet is ready.

    Raises:
        DemoError: a fleet stalled or time ran out; the message is its own condition.
    """
    deadline = time.monotonic() + timeout_s
    columns = (
        TextColumn("  {task.description:<34}"),
        BarColumn(24),
        TextColumn("{task.fields[state]:<20}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        board = _Board(bars, console)
        while True:
            board.show(_workers(objects, fleets))
            states = [objects.fetch_fleet(name) for name in fleets]
            if all(is_ready(fleet) for fleet in states):
                board.show(_workers(objects, fleets))
                return
            _check(states, time.monotonic() > deadline, timeout_s)
            time.sleep(POLL_S)


def _check(fleets: list[dict[str, Any]], is_late: bool, timeout_s: float) -> None:
    for fleet in fleets:
        stalled, ready = condition_of(fleet, "Stalled"), condition_of(fleet, "Ready")
        name = fleet["metadata"]["name"]
        if stalled.get("status") == "True":
            raise DemoError(f"{name} stalled ({stalled['reason']}): {stalled['message']}", "mend it and apply again")
        if is_late and not is_ready(fleet):
            raise DemoError(
                f"{name} is not ready after {timeout_s:.0f} s ({ready.get('reason')}): {ready.get('message')}",
                "look with kubectl describe infd and kubectl logs",
            )


def _workers(objects: Objects, fleets: list[str]) -> Iterator[tuple[str, int]]:
    for fleet in fleets:
        for pod in objects.fetch_pods(f"{FLEET_LABEL}={fleet}"):
            yield pod.metadata.name, milestone_of(pod)


class _Board:
    """The bars on a terminal; a line per change elsewhere."""

    def __init__(self, bars: Progress, console: Console) -> None:
        self._bars, self._console = bars, console
        self._tasks: dict[str, TaskID] = {}
        self._seen: dict[str, int] = {}

    def show(self, workers: Iterator[tuple[str, int]]) -> None:
        for name, milestone in workers:
            if self._seen.get(name) == milestone:
                continue
            self._seen[name] = milestone
            if self._console.is_terminal:
                self._move(name, milestone)
            else:
                self._console.print(f"  {name}: {MILESTONES[milestone]}", markup=False, soft_wrap=True)

    def _move(self, name: str, milestone: int) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=len(MILESTONES) - 1, state="")
        self._bars.update(self._tasks[name], completed=milestone, state=MILESTONES[milestone])
