"""A signal to an engine at a chosen moment, and how soon the decode engine notices."""

import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from integration.kv.vllm_engine import Engine

from tandem_worker.engine_api import read_load

_GIVE_UP_S = 15.0
_POLL_S = 0.004
Moment = Callable[[], None]  # returns when it has come


@dataclass(frozen=True)
class Noticing:
    """Seconds after the signal: when the kernel had closed the engine's sockets, and when the loss was counted."""

    dead_s: float | None
    noticed_s: float | None


class Strike(threading.Thread):
    """Waits for `moment`, signals `engine`, then watches the failures that `witness` counts until it is told to end."""

    def __init__(self, engine: Engine, with_signal: signal.Signals, witness: Engine, moment: Moment) -> None:
        super().__init__(daemon=True)
        self._engine, self._signal, self._witness, self._moment = engine, with_signal, witness, moment
        self._is_over = threading.Event()
        self._noticing = Noticing(None, None)
        self.start()

    def finish(self) -> Noticing:
        """To be called after the request."""
        self._is_over.set()
        self.join()
        return self._noticing

    def run(self) -> None:
        assert self._engine.kv is not None
        self._moment()
        before = _count_failures(self._witness)
        with socket.create_connection((self._engine.address, self._engine.kv["port"])) as line:
            line.setblocking(False)
            struck_s, dead_s = time.monotonic(), None
            self._engine.kill(self._signal)
            while not self._is_over.is_set():
                elapsed_s = time.monotonic() - struck_s
                dead_s = elapsed_s if dead_s is None and _is_ended(line) else dead_s
                if _count_failures(self._witness) > before:
                    self._noticing = Noticing(dead_s, time.monotonic() - struck_s)
                    return
                time.sleep(_POLL_S)


def _is_ended(line: socket.socket) -> bool:
    try:
        return line.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def _count_failures(engine: Engine) -> int:
    return sum(engine.stats()["failures"].values())


def arriving_at(decode: Engine, for_s: float) -> Moment:
    """The moment when a request has waited in `decode` for `for_s`: its KV is on the way, however busy the machine."""

    def wait() -> None:
        end_s = time.monotonic() + _GIVE_UP_S
        while not read_load(decode.client.get("/metrics").text).waiting and time.monotonic() < end_s:
            time.sleep(_POLL_S)
        time.sleep(for_s)

    return wait


def loaded_by(decode: Engine) -> Moment:
    """The moment when `decode` has pulled one more request's KV."""
    before = decode.stats()["transfers"]

    def wait() -> None:
        end_s = time.monotonic() + _GIVE_UP_S
        while decode.stats()["transfers"] == before and time.monotonic() < end_s:
            time.sleep(_POLL_S)

    return wait
