"""One run of a container: from the start of its process to the last line of its log."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from cluster.process_node.checks import CheckResult, CheckTarget, perform
from cluster.process_node.deadline import Deadline
from cluster.process_node.logs import LogFile, connect_pipe, tail_text
from cluster.process_node.objects import JsonObject
from cluster.process_node.orphans import CONTAINER_MARK, marked_processes, record_pid, send_kill
from cluster.process_node.probes import Schedule, parse_schedule, watch_probe
from cluster.process_node.processes import Launch, Process, spawn
from cluster.process_node.states import Terminated

LEAST_TERM_S = 2.0
STRAGGLERS_S = 10.0
LOG_DRAIN_S = 2.0
MESSAGE_LIMIT_BYTES = 4096
log = logging.getLogger(__name__)


class Observer(Protocol):
    """Told about the run as it goes on."""

    def running(self, started_at: datetime) -> None: ...

    def started(self) -> None: ...

    def ready(self, is_ready: bool) -> None: ...

    def warn(self, reason: str, message: str) -> None: ...

    def note(self, reason: str, message: str) -> None: ...


@dataclass(frozen=True)
class Setup:
    """All that one run needs to know."""

    container: JsonObject
    container_id: str
    launch: Launch
    log_path: Path
    pid_file: Path
    message_file: Path
    target: CheckTarget
    grace_s: float


class Instance:
    def __init__(self, setup: Setup, observer: Observer) -> None:
        self._setup = setup
        self._observer = observer
        self._deadline = Deadline()
        self._process: Process | None = None
        self._ending: asyncio.Task[None] | None = None
        self._stop_grace_s: float | None = None

    async def run(self) -> Terminated:
        """Until the process and all that it started are gone. Raises LaunchError when it cannot start."""
        started_at = datetime.now(UTC)
        log_file = LogFile(self._setup.log_path)
        try:
            code = await self._run(log_file, started_at)
        finally:
            log_file.close()
            self._setup.pid_file.unlink(missing_ok=True)
        return self._terminated(code, started_at)

    def stop(self, grace_s: float) -> None:
        """Asks for the end: preStop, SIGTERM, and SIGKILL after grace_s. May be repeated to shorten."""
        self._deadline.shorten_to(grace_s)
        self._stop_grace_s = grace_s
        if self._ending is None and self._process is not None:
            self._ending = asyncio.create_task(self._end(self._process, with_hook=grace_s > 0))

    async def _run(self, log_file: LogFile, started_at: datetime) -> int:
        process, pipes = await self._start(log_file)
        self._process = process
        record_pid(self._setup.pid_file, process.pid, process.start_ticks)
        self._observer.running(started_at)
        if self._stop_grace_s is not None:  # asked for while the process was being started
            self.stop(self._stop_grace_s)
        company = asyncio.create_task(self._accompany())
        try:
            return await process.wait()
        finally:
            await _cancelled(company, self._ending)
            process.kill_group()
            await self._kill_stragglers()
            await _drained(pipes)

    async def _start(self, log_file: LogFile) -> tuple[Process, list[_Pipe]]:
        out_reading, out_writing = os.pipe()
        err_reading, err_writing = os.pipe()
        try:
            process = spawn(self._setup.launch, out_writing, err_writing)
        except BaseException:
            os.close(out_reading)
            os.close(err_reading)
            raise
        finally:
            os.close(out_writing)
            os.close(err_writing)
        now = partial(datetime.now, UTC)
        return process, [
            await connect_pipe(out_reading, log_file, "stdout", now),
            await connect_pipe(err_reading, log_file, "stderr", now),
        ]

    async def _accompany(self) -> None:
        """postStart, then the startup probe, then liveness and readiness for ever."""
        if not await self._post_start():
            return
        await self._wait_until_started()
        self._observer.started()
        if not self._probe("readinessProbe"):
            self._observer.ready(True)
        async with asyncio.TaskGroup() as probes:
            for kind, report in (("livenessProbe", self._on_liveness), ("readinessProbe", self._on_readiness)):
                if self._probe(kind):
                    probes.create_task(self._watch(kind, report))

    async def _post_start(self) -> bool:
        hook = self._hook("postStart")
        if not hook:
            return True
        result = await perform(hook, self._setup.target, None)
        if not result.ok:
            self._observer.warn("FailedPostStartHook", f"PostStartHook failed: {result.message}")
            self.stop(self._setup.grace_s)
        return result.ok

    async def _wait_until_started(self) -> None:
        if not self._probe("startupProbe"):
            return
        success = asyncio.Event()

        def report(verdict: bool | None, result: CheckResult) -> None:
            if verdict:
                success.set()
            else:
                self._report_failure("startupProbe", "Startup", verdict, result)

        watching = asyncio.create_task(self._watch("startupProbe", report))
        try:
            await success.wait()
        finally:
            await _cancelled(watching)

    async def _watch(self, kind: str, report: Callable[[bool | None, CheckResult], None]) -> None:
        probe = self._probe(kind)
        schedule: Schedule = parse_schedule(probe)
        await watch_probe(schedule, partial(perform, probe, self._setup.target), report)

    def _on_liveness(self, verdict: bool | None, result: CheckResult) -> None:
        self._report_failure("livenessProbe", "Liveness", verdict, result)

    def _on_readiness(self, verdict: bool | None, result: CheckResult) -> None:
        if not result.ok:
            self._observer.warn("Unhealthy", f"Readiness probe failed: {result.message}")
        if verdict is not None:
            self._observer.ready(verdict)

    def _report_failure(self, kind: str, label: str, verdict: bool | None, result: CheckResult) -> None:
        if result.ok or self._ending is not None:
            return
        self._observer.warn("Unhealthy", f"{label} probe failed: {result.message}")
        if verdict is False:
            name = self._setup.container["name"]
            self._observer.note("Killing", f"Container {name} failed {label.lower()} probe, will be restarted")
            grace_s = self._probe(kind).get("terminationGracePeriodSeconds")
            self.stop(self._setup.grace_s if grace_s is None else float(grace_s))

    async def _end(self, process: Process, *, with_hook: bool) -> None:
        hook = self._hook("preStop")
        if hook and with_hook:
            await self._deadline.cuts(self._pre_stop(hook))
            self._deadline.leave_at_least(LEAST_TERM_S)
        process.send(signal.SIGTERM)
        if await self._deadline.cuts(process.wait()):
            process.send(signal.SIGKILL)

    async def _pre_stop(self, hook: JsonObject) -> None:
        result = await perform(hook, self._setup.target, None)
        if not result.ok:
            self._observer.warn("FailedPreStopHook", f"PreStopHook failed: {result.message}")

    async def _kill_stragglers(self) -> None:
        """Descendants that left the process group: in a real container they would end with it, too."""
        end_s = asyncio.get_running_loop().time() + STRAGGLERS_S
        while left := marked_processes(CONTAINER_MARK, self._setup.container_id):
            send_kill(left)
            if asyncio.get_running_loop().time() > end_s:
                log.error("processes %s of %s survive SIGKILL", left, self._setup.container_id)
                return
            await asyncio.sleep(0.02)

    def _terminated(self, code: int, started_at: datetime) -> Terminated:
        number = max(0, -code)
        exit_code = 128 + number if number else code
        return Terminated(
            exit_code=exit_code,
            reason="Completed" if exit_code == 0 else "Error",
            started_at=started_at,
            finished_at=datetime.now(UTC),
            container_id=self._setup.container_id,
            signal=number,
            message=self._message(failed=exit_code != 0),
        )

    def _message(self, *, failed: bool) -> str:
        text = ""
        if self._setup.message_file.is_file():
            text = self._setup.message_file.read_bytes()[:MESSAGE_LIMIT_BYTES].decode(errors="replace")
        fallback = self._setup.container.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        if not text and failed and fallback:
            return tail_text(self._setup.log_path, lines=80, limit_bytes=2048)
        return text

    def _probe(self, kind: str) -> JsonObject:
        return self._setup.container.get(kind) or {}

    def _hook(self, kind: str) -> JsonObject:
        return (self._setup.container.get("lifecycle") or {}).get(kind) or {}


_Pipe = tuple[asyncio.ReadTransport, "asyncio.Future[None]"]


async def _drained(pipes: list[_Pipe]) -> None:
    """Reads what is left; a process that hides from us may hold a pipe open, and is not waited for."""
    await asyncio.wait([closed for _, closed in pipes], timeout=LOG_DRAIN_S)
    for transport, _ in pipes:
        transport.close()


async def _cancelled(*tasks: asyncio.Task[None] | None) -> None:
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    for outcome in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(outcome, Exception):
            log.error("a probe or hook loop failed: this is a bug", exc_info=outcome)
