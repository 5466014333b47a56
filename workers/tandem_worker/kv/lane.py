"""The one thread of a GPU that calls libnccl. No call waits for a peer, so that one thread serves all edges.

NCCL must not be called for one communicator from two threads, and the kernels of several communicators on one device
need an order that all ranks agree on. Hence one thread for the calls, and one turn for the kernels: at most one edge of
a device has an operation in flight, and it takes the turn only when its peer has taken its own.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import SimpleQueue
from typing import Any, TypeVar

from tandem_worker.kv.transport import TransportError

T = TypeVar("T")
_Work = tuple[Callable[[], Any], "Future[Any]"]
_TURN_SLICE_S = 0.02


class Lane:
    """`call` from any thread."""

    def __init__(self, prepare: Callable[[], None], patience_s: float) -> None:
        """`prepare` runs first, in the thread. A call that takes longer than `patience_s` will never return."""
        self._prepare = prepare
        self._patience_s = patience_s
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._running_since_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="tandem-kv-nccl", daemon=True)
        self._thread.start()

    @property
    def is_stuck(self) -> bool:
        since_s = self._running_since_s
        return since_s is not None and time.monotonic() - since_s > self._patience_s

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Its result, or what it raised. Raises TransportError when the lane is stuck."""
        answer: Future[T] = Future()
        self._work.put((lambda: function(*arguments), answer))
        try:
            return answer.result(self._patience_s)
        except FutureTimeoutError as error:
            raise TransportError("nccl_stuck", "a call of libnccl does not return") from error

    def await_calls(self) -> None:
        """Until every call made so far has returned, however long that takes."""
        answer: Future[None] = Future()
        self._work.put((lambda: None, answer))
        answer.result()

    def stop(self) -> None:
        """After the calls that were made before."""
        self._work.put(None)
        self._thread.join(self._patience_s)

    def _run(self) -> None:
        self._running_since_s = time.monotonic()
        self._prepare()
        self._running_since_s = None
        while (work := self._work.get()) is not None:
            function, answer = work
            self._running_since_s = time.monotonic()
            try:
                answer.set_result(function())
            except Exception as fault:  # to whoever asked
                answer.set_exception(fault)
            self._running_since_s = None


class Turn:
    """Who may have a kernel of a communicator in flight on a device."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self, deadline_s: float, check: Callable[[], None]) -> None:
        """Raises TransportError at the deadline, and what `check` raises meanwhile."""
        while not self._lock.acquire(timeout=_TURN_SLICE_S):
            check()
            if time.monotonic() > deadline_s:
                raise TransportError("chunk_timeout", "other transfers of this GPU did not end within the deadline")

    def give(self) -> None:
        """From any thread."""
        self._lock.release()
