"""What two ends of an nccl edge say to one another on their line, so that no kernel waits for an absent peer.

prefill                   decode
OFFER epoch, unique id ->           once per communicator; both then join it, and warm it up with a chunk
                       <- ACCEPT
LABEL epoch, chunk     ->           the chunk lies gathered in staging
                       <- GO        decode has its GPU's turn and a buffer (or STALE: it has this communicator no more)
POST epoch             ->           prefill has its turn too: both post
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from tandem_worker.kv.line import Line
from tandem_worker.kv.nccl_library import UNIQUE_ID_BYTES
from tandem_worker.kv.transport import ChunkLabel, TransportError

_SIGNAL = struct.Struct("!4sBQQIQ")  # magic, kind, epoch, and the chunk's transfer, index, bytes
_MAGIC = b"TKN1"
NO_CHUNK = ChunkLabel(0, 0, 0)


class Kind(IntEnum):
    """Of a signal."""

    OFFER = 1
    ACCEPT = 2
    LABEL = 3
    GO = 4
    STALE = 5
    POST = 6


@dataclass(frozen=True, slots=True)
class Signal:
    """`unique_id` comes with OFFER only."""

    kind: Kind
    epoch: int
    chunk: ChunkLabel = NO_CHUNK
    unique_id: bytes = b""


def say(line: Line, signal: Signal, deadline_s: float) -> None:
    """Raises TransportError."""
    chunk = signal.chunk
    header = _SIGNAL.pack(_MAGIC, signal.kind, signal.epoch, chunk.transfer, chunk.index, chunk.size_bytes)
    line.send([memoryview(header + signal.unique_id)], deadline_s)


def hear(line: Line, deadline_s: float) -> Signal:
    """Raises TransportError, `out_of_step` for bytes that are no signal."""
    header = bytearray(_SIGNAL.size)
    line.receive([memoryview(header)], deadline_s)
    magic, kind, epoch, *chunk = _SIGNAL.unpack(header)
    if magic != _MAGIC or kind not in set(Kind):
        raise TransportError("out_of_step", "what came on the line is no signal")
    unique_id = bytearray(UNIQUE_ID_BYTES if kind == Kind.OFFER else 0)
    if unique_id:
        line.receive([memoryview(unique_id)], deadline_s)
    return Signal(Kind(kind), epoch, ChunkLabel(*chunk), bytes(unique_id))


def expect(line: Line, kind: Kind, epoch: int, deadline_s: float) -> None:
    """Hear exactly this. Raises TransportError."""
    signal = hear(line, deadline_s)
    if (signal.kind, signal.epoch) != (kind, epoch):
        raise TransportError("out_of_step", f"{kind.name} {epoch} was due; {signal.kind.name} {signal.epoch} came")
