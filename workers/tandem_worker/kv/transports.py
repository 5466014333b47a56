"""The transports of a rank: `tcp` always, `nccl` where it was asked for and can be."""

from collections.abc import Mapping
from dataclasses import dataclass

from tandem_worker.kv.memory import HostMemory
from tandem_worker.kv.negotiation import NCCL, TCP
from tandem_worker.kv.settings import KvSettings
from tandem_worker.kv.tcp import TcpTransport
from tandem_worker.kv.transport import Transport
from tandem_worker.kv.windows import HostWindow


@dataclass(frozen=True)
class Transports:
    """`nccl_version` is empty where nccl cannot be used, for the reason `nccl_missing`."""

    by_name: Mapping[str, Transport]
    nccl_version: str = ""
    nccl_missing: str = ""


def open_transports(settings: KvSettings, memory: HostMemory) -> Transports:
    """What these settings and this memory allow."""
    missing = "kv_in_host_memory" if settings.transport == NCCL else ""
    return Transports({TCP: TcpTransport(lambda: HostWindow(memory))}, nccl_missing=missing)
