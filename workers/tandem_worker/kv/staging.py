"""Buffers of device memory that chunks pass through, made once and registered with every communicator."""

import logging
import threading
import time
from collections.abc import Callable

from tandem_worker.kv.cuda_library import CudaLibrary
from tandem_worker.kv.nccl_library import NcclError, NcclLibrary
from tandem_worker.kv.transport import TransportError

logger = logging.getLogger(__name__)
_SLICE_S = 0.02
_ALIGNMENT = 4096


class Staging:
    """`count` slots of `slot_bytes`, named by address. A slot that is not given back is never used again."""

    def __init__(self, nccl: NcclLibrary, cuda: CudaLibrary, slot_bytes: int, count: int) -> None:
        """Raises CudaError."""
        self.slot_bytes = -(-slot_bytes // _ALIGNMENT) * _ALIGNMENT
        self.size_bytes = self.slot_bytes * count
        self.address, self.is_registrable, self._release = _allocate(nccl, cuda, self.size_bytes)
        self._free = [self.address + number * self.slot_bytes for number in range(count)]
        self._count = count
        self._given = threading.Condition()

    @property
    def free_count(self) -> int:
        return len(self._free)

    def take(self, deadline_s: float, check: Callable[[], None]) -> int:
        """The address of a slot. Raises TransportError at the deadline, and what `check` raises meanwhile."""
        while (slot := self.take_now()) is None:
            check()
            if time.monotonic() > deadline_s:
                raise TransportError("chunk_timeout", "no staging buffer became free within the deadline")
            with self._given:
                self._given.wait_for(lambda: bool(self._free), _SLICE_S)
        return slot

    def take_now(self) -> int | None:
        with self._given:
            return self._free.pop() if self._free else None

    def give(self, slot: int) -> None:
        """Nothing reads or writes it any more."""
        with self._given:
            self._free.append(slot)
            self._given.notify()

    def close(self) -> None:
        """Unless a slot is out: then a kernel may still use it, and its memory is left to the end of the process."""
        if len(self._free) == self._count:
            self._release(self.address)


def _allocate(nccl: NcclLibrary, cuda: CudaLibrary, size_bytes: int) -> tuple[int, bool, Callable[[int], None]]:
    """(address, whether NCCL can register it, how to free it)."""
    try:
        return nccl.allocate(size_bytes), True, nccl.free
    except NcclError as error:  # no virtual memory management on this device: then without registration
        logger.warning("staging is not registered with NCCL: %s", error)
        return cuda.allocate(size_bytes), False, cuda.free
