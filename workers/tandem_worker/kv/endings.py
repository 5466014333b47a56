"""The end of communicators. It may hang, so that each has a thread that can be given up, and nobody waits for it."""

import logging
import threading
import time
from collections.abc import Callable

from tandem_worker.kv.lane import Lane
from tandem_worker.kv.nccl_library import NcclError, NcclLibrary, Result

logger = logging.getLogger(__name__)
_QUIESCE_S = 1.0
_POLL_S = 0.002


class Endings:
    """Communicators are ended by abort alone: it needs nothing of the peer, who may be gone."""

    def __init__(self, nccl: NcclLibrary, lane: Lane, prepare: Callable[[], None], patience_s: float) -> None:
        """`prepare` runs first in each thread. An end that takes longer than `patience_s` will never come."""
        self._nccl = nccl
        self._lane = lane
        self._prepare = prepare
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._under_way: dict[threading.Thread, float] = {}

    @property
    def is_stuck(self) -> bool:
        """Whether an abort hangs: only a restart of the process helps."""
        now_s = time.monotonic()
        with self._lock:
            return any(now_s - since_s > self._patience_s for since_s in self._under_way.values())

    def end(self, communicator: int, on_ended: Callable[[], None], *, is_working: bool) -> None:
        """Nobody calls NCCL for it from now on. `on_ended`: called when no kernel of it runs any more.

        `is_working`: an operation may be in flight; it is revoked first where the library can, which frees the GPU.
        """
        thread = threading.Thread(
            target=self._end, args=(communicator, on_ended, is_working), name="tandem-kv-nccl-end", daemon=True
        )
        with self._lock:
            self._under_way[thread] = time.monotonic()
        thread.start()

    def join(self, deadline_s: float) -> bool:
        """Wait for those under way; whether all came to their end."""
        for thread in list(self._under_way):
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not self._under_way

    def _end(self, communicator: int, on_ended: Callable[[], None], is_working: bool) -> None:
        self._prepare()
        self._lane.await_calls()  # one of them may be for this communicator, and hang
        try:
            if is_working and self._nccl.revoke(communicator):
                self._await_quiet(communicator)
        except NcclError as error:
            logger.info("a communicator could not be revoked before its abort: %s", error)
        try:
            self._nccl.abort(communicator)
        except NcclError as error:  # its kernels may run on: as bad as an abort that hangs
            logger.error("a communicator cannot be aborted: %s", error)
            return
        on_ended()
        with self._lock:
            del self._under_way[threading.current_thread()]

    def _await_quiet(self, communicator: int) -> None:
        end_s = time.monotonic() + _QUIESCE_S
        while self._nccl.fetch_state(communicator) is Result.IN_PROGRESS and time.monotonic() < end_s:
            time.sleep(_POLL_S)
