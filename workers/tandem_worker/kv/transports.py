"""The transports of a rank: `tcp` always, `nccl` where it was asked for and can be."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from tandem_worker.kv.cuda_library import CudaError
from tandem_worker.kv.device_memory import DeviceMemory, PinnedWindow
from tandem_worker.kv.layout import KvLayout
from tandem_worker.kv.memory import HostMemory
from tandem_worker.kv.nccl import NcclLimits, NcclTransport
from tandem_worker.kv.nccl_library import NcclError, NcclLibrary, NcclMissingError
from tandem_worker.kv.negotiation import NCCL, TCP
from tandem_worker.kv.settings import KvSettings
from tandem_worker.kv.tcp import TcpTransport
from tandem_worker.kv.transport import Transport, TransportError
from tandem_worker.kv.windows import HostWindow, Window

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transports:
    """`nccl_version` is empty where nccl cannot be used, for the reason `nccl_missing`."""

    by_name: Mapping[str, Transport]
    nccl_version: str = ""
    nccl_missing: str = ""


def open_transports(settings: KvSettings, layout: KvLayout, memory: HostMemory | DeviceMemory) -> Transports:
    """What these settings and this memory allow."""
    tcp = TcpTransport(lambda: _open_window(memory, settings.chunk_timeout_s))
    if settings.transport != NCCL:
        return Transports({TCP: tcp})
    if isinstance(memory, HostMemory):
        return Transports({TCP: tcp}, nccl_missing="kv_in_host_memory")
    try:
        library = NcclLibrary()
        nccl = NcclTransport(library, memory, _build_limits(settings, layout))
    except NcclMissingError as error:
        logger.warning("KV will move over tcp: %s", error)
        return Transports({TCP: tcp}, nccl_missing="libnccl_missing")
    except (NcclError, CudaError, TransportError) as error:
        logger.warning("KV will move over tcp: NCCL cannot be set up: %s", error)
        return Transports({TCP: tcp}, nccl_missing="nccl_setup_failed")
    return Transports({TCP: tcp, NCCL: nccl}, ".".join(map(str, library.version)))


def _open_window(memory: HostMemory | DeviceMemory, timeout_s: float) -> Window:
    return HostWindow(memory) if isinstance(memory, HostMemory) else PinnedWindow(memory, timeout_s)


def _build_limits(settings: KvSettings, layout: KvLayout) -> NcclLimits:
    blocks = (group.block_bytes(group.all_heads) for group in layout.groups)
    return NcclLimits(
        slot_bytes=max(settings.chunk_bytes, *blocks),  # a larger block is a chunk of its own
        slots=settings.nccl_slots,
        max_communicators=settings.nccl_max_communicators,
        idle_s=settings.nccl_idle_s,
        open_timeout_s=settings.nccl_open_timeout_s,
        patience_s=settings.nccl_patience_s,
    )
