"""NIXL's UCX backend over TCP: one READ of all pages, as vLLM's own connector does it; descriptors are made once."""

import base64
import time
from typing import Any

from bench.kv.cache import Cache
from bench.kv.peer import Peer
from bench.kv.shape import BLOCKS, LAYERS, PAGE_BYTES
from nixl._api import nixl_agent, nixl_agent_config

IS_SCATTERED = True
_TIMEOUT_S = 60


class Prefill:
    def __init__(self, cache: Cache, blocks: list[int], chunk_bytes: int, peer: Peer) -> None:
        self._agent = _make_agent("prefill", cache)
        peer.say([base64.b64encode(self._agent.get_agent_metadata()).decode(), cache.address])

    def prepare(self) -> None:
        """Nothing to do."""

    def send(self) -> None:
        """The decode end reads; NIXL's own thread serves it."""

    def close(self) -> None:
        """The process ends."""


class Decode:
    def __init__(self, cache: Cache, sent: list[int], received: list[int], chunk_bytes: int, peer: Peer) -> None:
        metadata, address = peer.hear()
        self._agent = _make_agent("decode", cache)
        remote = self._agent.add_remote_agent(base64.b64decode(metadata))
        self._theirs = self._agent.prep_xfer_dlist(remote, _pages(address), "DRAM")
        self._mine = self._agent.prep_xfer_dlist("NIXL_INIT_AGENT", _pages(cache.address), "DRAM")
        self._sent, self._received = _numbers(sent), _numbers(received)

    def receive(self) -> None:
        agent = self._agent
        handle = agent.make_prepped_xfer("READ", self._mine, self._received, self._theirs, self._sent)
        state = agent.transfer(handle)
        end_s = time.monotonic() + _TIMEOUT_S
        while state == "PROC" and time.monotonic() < end_s:
            state = agent.check_xfer_state(handle)
        if state != "DONE":
            raise RuntimeError(f"NIXL's transfer ended as {state}")
        agent.release_xfer_handle(handle)

    def close(self) -> None:
        """The process ends."""


def _make_agent(name: str, cache: Cache) -> Any:
    agent = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
    agent.register_memory([(cache.address, cache.size_bytes, 0, "")], "DRAM")
    return agent


def _pages(address: int) -> list[tuple[int, int, int]]:
    return [(address + page * PAGE_BYTES, PAGE_BYTES, 0) for page in range(LAYERS * BLOCKS)]


def _numbers(blocks: list[int]) -> list[int]:
    return [layer * BLOCKS + block for layer in range(LAYERS) for block in blocks]
