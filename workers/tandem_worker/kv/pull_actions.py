"""What a Puller orders its shell to do, and the jobs that it does it for."""

from dataclasses import dataclass
from typing import Any

from tandem_worker.kv.layout import HeadSlice
from tandem_worker.kv.messages import Message

Blocks = tuple[tuple[int, ...], ...]
Heads = tuple[HeadSlice, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """Pull `remote_blocks` into `local_blocks`; both name the same blocks of the request, in the same order."""

    key: str
    ticket: dict[str, Any]
    remote_blocks: Blocks
    remote_heads: Heads
    local_blocks: Blocks
    local_heads: Heads


@dataclass(frozen=True, slots=True)
class Connect:
    link: int


@dataclass(frozen=True, slots=True)
class Send:
    link: int
    message: Message


@dataclass(frozen=True, slots=True)
class Attach:
    """Set up the data path to the endpoint that the peer offered."""

    link: int
    endpoint: dict[str, str]
    transport: str


@dataclass(frozen=True, slots=True)
class Receive:
    link: int
    transfer: int
    job: Job
    chunk_bytes: int


@dataclass(frozen=True, slots=True)
class StopReceive:
    """Make the running receive fail at once."""

    link: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    link: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The job's end: `fault` is None when all came; else `chunks` of `chunk_bytes` came before it."""

    job: Job
    chunks: int
    chunk_bytes: int
    fault: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """Something to count, by a bounded reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class FellBack:
    """A session uses another transport than was asked for, by a bounded reason."""

    reason: str


PullerAction = Connect | Send | Attach | Receive | StopReceive | Disconnect | Finished | Failed | FellBack
