"""`tandem-worker`: PID 1 of a worker's container."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from tandem_worker.errors import WorkerError
from tandem_worker.settings import TERMINATION_LOG, TERMINATION_LOG_ENV, Settings, read_settings
from tandem_worker.supervisor import Supervisor

log = logging.getLogger("tandem_worker")


def main() -> int:
    """Run until told to stop. Returns the exit code: 0 after a drain, 2 when told wrongly, else the engine's."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s tandem-worker %(levelname)s %(message)s"
    )
    try:
        asyncio.run(_supervise(read_settings(os.environ)))
    except WorkerError as fault:
        log.error("%s", fault.to_termination_message())
        write_termination_message(fault, find_termination_log(os.environ))
        return fault.exit_code
    return 0


def find_termination_log(environ: Mapping[str, str]) -> Path | None:
    """Where Kubernetes reads a last message. The default is used only where it exists: outside a pod it does not."""
    if told := environ.get(TERMINATION_LOG_ENV):
        return Path(told)
    default = Path(TERMINATION_LOG)
    return default if default.exists() else None


def write_termination_message(fault: WorkerError, path: Path | None) -> None:
    """Leave `Reason: message` there. A place that cannot be written costs only the message."""
    if path is None:
        return
    try:
        path.write_text(fault.to_termination_message(), encoding="utf-8")
    except OSError as error:
        log.warning("no termination message: %s", error)


async def _supervise(settings: Settings) -> None:
    for directory in (settings.run_dir, settings.data_dir):
        directory.mkdir(parents=True, exist_ok=True)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=8)) as session:
        supervisor = Supervisor(settings, session)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.request_stop)
        await supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
