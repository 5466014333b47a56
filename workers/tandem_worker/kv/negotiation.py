"""Which transport two engines use. Both asked for the same one; `tcp` stands in where `nccl` cannot be.

NCCL checks at the start of a communicator that all its ranks run the same version, and refuses it otherwise: during an
upgrade of images that is no fault, so it is decided here, before anything is tried.
"""

from dataclasses import dataclass

from tandem_worker.kv.messages import Engine

NCCL, TCP = "nccl", "tcp"
VERSIONS_DIFFER = "nccl_versions_differ"


@dataclass(frozen=True, slots=True)
class Choice:
    """`fallback`: why it is not the transport that was asked for, as a bounded name; None when it is."""

    transport: str
    fallback: str | None = None


def decide_transport(mine: Engine, theirs: Engine) -> Choice:
    """The same transport on both sides; the reasons are told from `mine`'s point of view."""
    if mine.transport != NCCL:
        return Choice(mine.transport)
    if not mine.nccl_version:
        return Choice(TCP, mine.nccl_missing or "nccl_missing")
    if not theirs.nccl_version:
        return Choice(TCP, f"peer_{theirs.nccl_missing or 'nccl_missing'}")
    if mine.nccl_version != theirs.nccl_version:
        return Choice(TCP, VERSIONS_DIFFER)
    return Choice(NCCL)
