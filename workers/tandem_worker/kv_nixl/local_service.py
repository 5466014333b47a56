"""The rank's local socket, served by a thread of its own: it answers while the engine computes."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

from tandem_worker.kv.keys import Signer
from tandem_worker.kv.local_server import serve_local
from tandem_worker.kv.params import TicketError, read_ticket
from tandem_worker.kv_nixl.ledger import Ledger

_START_TIMEOUT_S = 10
_MIN_SUBSTRING = 8  # a shorter one would match strangers' requests


class LocalService:
    """Answers stats, load and release as our own connector does. `lock` guards the ledger, here and in the engine."""

    def __init__(self, ledger: Ledger, lock: threading.Lock, fleet: str, signer: Signer, path: Path) -> None:
        self._ledger = ledger
        self._lock = lock
        self._fleet = fleet
        self._signer = signer
        self._path = path
        self._ended = asyncio.Event()
        self._ready = threading.Event()
        self._fault: OSError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="tandem-kv-local", daemon=True)

    def start(self) -> None:
        """Raises OSError when the socket cannot be made."""
        self._thread.start()
        self._ready.wait(_START_TIMEOUT_S)
        if self._fault is not None:
            raise self._fault

    def stop(self) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(_START_TIMEOUT_S)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request of the worker's admin server."""
        with self._lock:
            match request:
                case {"op": "stats"}:
                    return self._ledger.to_stats(time.monotonic())
                case {"op": "load", "request_id": str(remote_request_id)}:
                    load = self._ledger.find_load(remote_request_id)
                    return {"load": load.to_dict() if load else None}
                case {"op": "release", "request_id": str(part)} if len(part) >= _MIN_SUBSTRING:
                    return {"released": self._ledger.release(part, time.monotonic())}
                case {"op": "release", "params": dict(params)}:
                    return self._release(params)
        return {
            "error": f"unknown op; stats, load with request_id, release with request_id (>= {_MIN_SUBSTRING}) or params"
        }

    def _release(self, params: dict[str, Any]) -> dict[str, Any]:
        try:
            ticket = read_ticket(params, self._fleet, self._signer)
        except TicketError as error:
            return {"error": str(error), "reason": error.reason}
        return {"released": self._ledger.release(ticket.remote_request_id, time.monotonic())}

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as fault:  # a thread has nobody to raise to; start() raises it
            self._fault = fault
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with serve_local(self._path, self.answer):
            self._ready.set()
            await self._ended.wait()
