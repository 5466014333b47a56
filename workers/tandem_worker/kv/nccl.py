"""The `nccl` transport of a rank: one GPU, its thread for NCCL, its staging, its communicators.

What of it has been run, and where, is in docs/design/nccl.md.
"""

from dataclasses import dataclass
from functools import partial
from itertools import count
from time import monotonic
from typing import Any

from tandem_worker.kv.communicators import Communicators
from tandem_worker.kv.cuda_library import CudaError
from tandem_worker.kv.device_memory import DeviceMemory
from tandem_worker.kv.edge_table import EdgeTable
from tandem_worker.kv.endings import Endings
from tandem_worker.kv.lane import Lane, Turn
from tandem_worker.kv.line import Line
from tandem_worker.kv.nccl_edge import Gpu, NcclEdge
from tandem_worker.kv.nccl_library import NcclLibrary
from tandem_worker.kv.staging import Staging
from tandem_worker.kv.transport import Edge, TransportError

_STOP_S = 5.0


@dataclass(frozen=True)
class NcclLimits:
    """`patience_s`: after that a call or an abort will never return, and only a restart helps."""

    slot_bytes: int
    slots: int
    max_communicators: int
    idle_s: float
    open_timeout_s: float
    patience_s: float


class NcclTransport:
    """Made once per rank. Communicators are made by the edges, when they first move something."""

    def __init__(self, nccl: NcclLibrary, memory: DeviceMemory, limits: NcclLimits) -> None:
        """Raises CudaError, TransportError."""
        self._nccl = nccl
        self._memory = memory
        self._numbers = count(1)
        prepare = partial(memory.cuda.use_device, memory.device)
        self._lane = Lane(prepare, limits.patience_s)
        self._endings = Endings(nccl, self._lane, prepare, limits.patience_s)
        self._staging = self._lane.call(Staging, nccl, memory.cuda, limits.slot_bytes, limits.slots)
        table = EdgeTable(limits.max_communicators, limits.idle_s)
        self._communicators = Communicators(nccl, self._lane, self._endings, table, self._staging)
        stream = self._lane.call(memory.cuda.make_stream)
        self._gpu = Gpu(
            nccl, memory, self._lane, Turn(), stream, self._staging, self._communicators, limits.open_timeout_s
        )

    def open_edge(self, line: Line) -> Edge:
        try:
            return NcclEdge(self._gpu, line, next(self._numbers))
        except CudaError as error:
            line.close()
            raise TransportError("cuda_failed", str(error)) from error

    def tick(self) -> None:
        self._communicators.tick()

    def report(self) -> dict[str, Any]:
        stuck = None
        if self._lane.is_stuck:
            stuck = "a call of libnccl does not return"
        elif self._endings.is_stuck:
            stuck = "the abort of a communicator does not return"
        return {
            "stuck": stuck,
            "communicators": len(self._communicators),
            "communicator_bytes": self._communicators.memory_bytes,
            "staging_bytes": self._staging.size_bytes,
            "staging_free": self._staging.free_count,
        }

    def stop(self) -> None:
        """What hangs is left to the end of the process."""
        if self._endings.join(monotonic() + _STOP_S) and not self._lane.is_stuck:
            self._lane.call(self._memory.cuda.destroy_stream, self._gpu.stream)
            self._lane.call(self._staging.close)
            self._lane.stop()
