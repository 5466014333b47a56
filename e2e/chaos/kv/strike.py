"""A signal to an engine at a chosen moment, and how soon the decode engine notices."""

import signal
import threading
import time
from collections.abc import Callable

from integration.kv.vllm_engine import Engine

_GIVE_UP_S = 15.0
_POLL_S = 0.004
Moment = Callable[[], None]  # returns when it has come


class Strike(threading.Thread):
    """Waits for `moment`, signals `engine`, then watches the failures that `witness` counts until it is told to end."""

    def __init__(self, engine: Engine, with_signal: signal.Signals, witness: Engine, moment: Moment) -> None:
        super().__init__(daemon=True)
        self._engine, self._signal, self._witness, self._moment = engine, with_signal, witness, moment
        self._is_over = threading.Event()
        self._noticed_s: float | None = None
        self.start()

    def finish(self) -> float | None:
        """After the request: how long after the signal its loss was noticed."""
        self._is_over.set()
        self.join()
        return self._noticed_s

    def run(self) -> None:
        self._moment()
        before = _count_failures(self._witness)
        struck_s = time.monotonic()
        self._engine.kill(self._signal)
        while not self._is_over.is_set():
            if _count_failures(self._witness) > before:
                self._noticed_s = time.monotonic() - struck_s
                return
            time.sleep(_POLL_S)


def _count_failures(engine: Engine) -> int:
    return sum(engine.stats()["failures"].values())


def loaded_by(decode: Engine) -> Moment:
    """The moment when `decode` has pulled one more request's KV."""
    before = decode.stats()["transfers"]

    def wait() -> None:
        end_s = time.monotonic() + _GIVE_UP_S
        while decode.stats()["transfers"] == before and time.monotonic() < end_s:
            time.sleep(_POLL_S)

    return wait
