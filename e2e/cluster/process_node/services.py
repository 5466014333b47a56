"""What every pod of one node shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from cluster.process_node.addresses import AddressPool
from cluster.process_node.api import ApiClient
from cluster.process_node.events import EventRecorder
from cluster.process_node.folders import NodeFolders
from cluster.process_node.images import ImageTable
from cluster.process_node.object_cache import ObjectCache

HOST_IP = "127.0.0.1"


@dataclass(frozen=True)
class Timing:
    """The node's own intervals; tests shorten the back-off."""

    backoff_s: float = 10.0
    retry_s: float = 2.0
    refresh_s: float = 10.0


@dataclass(frozen=True)
class NodeServices:
    node_name: str
    api: ApiClient
    api_host: str
    api_port: int
    images: ImageTable
    addresses: AddressPool
    folders: NodeFolders
    cache: ObjectCache
    events: EventRecorder
    probe_session: aiohttp.ClientSession
    allocatable: Mapping[str, str]
    inherited_env: Mapping[str, str]
    timing: Timing
