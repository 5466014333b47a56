"""A KV rank without an engine: real memory, real sockets, short deadlines."""

import ctypes
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integration.kv.vllm_engine import find_free_port, write_keys
from property.kv.world import build_engine

from tandem_worker.kv.cuda_library import CudaLibrary
from tandem_worker.kv.decode_side import Peer
from tandem_worker.kv.device_memory import DeviceMemory
from tandem_worker.kv.keys import KeyRing, fetch_keys
from tandem_worker.kv.layout import Group, HeadSlice, KvLayout, Region
from tandem_worker.kv.loads import Load, LoadResult
from tandem_worker.kv.memory import HostMemory
from tandem_worker.kv.params import Ticket, issue_ticket
from tandem_worker.kv.pull_actions import Job
from tandem_worker.kv.service import KvService
from tandem_worker.kv.settings import KvSettings
from tandem_worker.kv.worker_side import StepResults, WorkerSide

HEADS, PAGE_BYTES, LAYERS, BLOCKS = 2, 32 << 10, 2, 64
BLOCK_BYTES = PAGE_BYTES * LAYERS
TOKENS = 16
ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Shape:
    """Of a KV cache: `layers` of `blocks` pages each."""

    layers: int = LAYERS
    blocks: int = BLOCKS
    page_bytes: int = PAGE_BYTES


class HostCache:
    """Random bytes in host memory."""

    def __init__(self, size: int) -> None:
        self._buffer = ctypes.create_string_buffer(secrets.token_bytes(size), size)
        self.address = ctypes.addressof(self._buffer)
        self.memory = HostMemory([(self.address, size)])

    def read(self, offset: int, size: int) -> bytes:
        return ctypes.string_at(self.address + offset, size)


class DeviceCache:
    """Random bytes on a device of the CUDA library that the environment names."""

    def __init__(self, size: int, device: int) -> None:
        self._cuda, self._device = CudaLibrary(), device
        self._cuda.use_device(device)
        self.address = self._cuda.allocate(size)
        self._stream, self._event = self._cuda.make_stream(), self._cuda.make_event()
        self.memory = DeviceMemory(self._cuda, device, [(self.address, size)])
        content = ctypes.create_string_buffer(secrets.token_bytes(size), size)
        self._copy(self.address, ctypes.addressof(content), size)

    def read(self, offset: int, size: int) -> bytes:
        content = ctypes.create_string_buffer(size)
        self._copy(ctypes.addressof(content), self.address + offset, size)
        return content.raw

    def _copy(self, target: int, source: int, size: int) -> None:
        self._cuda.use_device(self._device)
        self._cuda.copy([(target, source, size)], self._stream)
        self._cuda.record(self._event, self._stream)
        while not self._cuda.is_done(self._event):
            time.sleep(0.0005)

    def close(self) -> None:
        self._cuda.destroy_event(self._event)
        self._cuda.destroy_stream(self._stream)
        self._cuda.free(self.address)


class Rank:
    """One prefill or decode rank, with a KV cache of random bytes."""

    def __init__(
        self, directory: Path, name: str, engine: dict[str, Any], heads: int, settings: dict[str, Any]
    ) -> None:
        """Settings `device` and `shape` are of the cache: on the host, and small, without them."""
        self.heads, self.shape = heads, settings.pop("shape", Shape())
        device = settings.pop("device", None)
        self.page = page = self.shape.page_bytes // HEADS * heads
        blocks, size = self.shape.blocks, self.shape.layers * self.shape.blocks * page
        self.cache = HostCache(size) if device is None else DeviceCache(size, device)
        regions = tuple(
            Region(self.cache.address + layer * blocks * page, blocks, page, page, page, 1, heads)
            for layer in range(self.shape.layers)
        )
        self.layout = KvLayout((Group(regions),))
        self.memory = self.cache.memory
        keys = directory / "keys"
        if not keys.exists():
            write_keys(keys)
        self.settings = KvSettings(
            **{
                "bind_host": ADDRESS, "port": find_free_port(ADDRESS), "keys_dir": keys, "kv_revision": "r1",
                "fleet": "ns/fleet", "engine_id": name, "run_dir": directory / name, "lease_wait_s": 0.3,
                "heartbeat_s": 0.1, "chunk_timeout_s": 0.5, "handshake_timeout_s": 0.5, "connect_timeout_s": 0.3,
                "chunk_bytes": BLOCK_BYTES, **settings,
            }
        )  # fmt: skip
        identity = {"engine_id": f"{name}/{secrets.token_hex(4)}", "chunk_bytes": self.settings.chunk_bytes}
        self.engine = build_engine(**identity | {"transport": self.settings.transport} | engine)
        self.service = KvService(self.engine, self.settings, self.layout, self.memory)

    @property
    def peer(self) -> Peer:
        return Peer(ADDRESS, self.settings.port, self.engine.engine_id)

    def block(self, block: int) -> bytes:
        starts = [(layer * self.shape.blocks + block) * self.page for layer in range(self.shape.layers)]
        return b"".join(self.cache.read(start, self.page) for start in starts)

    def ticket(self, request_id: str, blocks: list[int], **changes: Any) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "remote_engine_id": self.engine.engine_id,
            "remote_request_id": request_id,
            "remote_block_ids": [blocks],
            "remote_host": ADDRESS,
            "remote_port": self.settings.port,
            "tp_size": 1,
            "remote_num_tokens": TOKENS * len(blocks),
            "prompt_digest": "0" * 64,
            "expiry": 0,
            "fleet": "ns/fleet",
        }
        ticket: Ticket = issue_ticket(fields | changes, self.signer)
        return ticket.model_dump()

    @property
    def signer(self) -> KeyRing:
        return fetch_keys(self.settings.keys_dir)

    def pull(self, peer: Peer, ticket: dict[str, Any], local: list[int], remote: list[int] | None = None) -> None:
        """Begin a load; `remote` other than the ticket's blocks is a forgery."""
        key = str(ticket["remote_request_id"])
        theirs = tuple(ticket["remote_block_ids"][0] if remote is None else remote)
        heads = (HeadSlice(0, HEADS),)
        job = Job(key, ticket, (theirs,), heads, (tuple(local),), heads)
        load = Load(key, (tuple(local),), 0, TOKENS * len(local), TOKENS, open_pulls=1)
        self.service.load(load, [(peer, job)])

    def await_load(self, timeout_s: float = 3) -> LoadResult:
        results = self._await(lambda: list(self.service.take_results().loaded), timeout_s)
        assert len(results) == 1
        return results[0]

    def await_loads(self, count: int, timeout_s: float) -> list[LoadResult]:
        results: list[LoadResult] = []
        while len(results) < count:
            results += self._await(lambda: list(self.service.take_results().loaded), timeout_s)
        return results

    def await_freed(self, timeout_s: float = 3) -> set[str]:
        return set(self._await(lambda: list(self.service.take_results().sent), timeout_s))

    def await_results(self, side: WorkerSide, timeout_s: float = 3) -> StepResults:
        """The first results of `side` that hold anything."""

        def take() -> list[StepResults]:
            results = side.take_results()
            return [results] if results.received or results.sent else []

        return self._await(take, timeout_s)[0]

    def _await(self, take: Any, timeout_s: float) -> list[Any]:
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if found := take():
                return found
            time.sleep(0.005)
        raise AssertionError(f"nothing came within {timeout_s} s")

    @property
    def socket(self) -> Path:
        return self.settings.local_socket(0)


@contextmanager
def running_rank(
    directory: Path, name: str, engine: dict[str, Any] | None = None, heads: int = HEADS, **settings: Any
) -> Iterator[Rank]:
    rank = Rank(directory, name, engine or {}, heads, settings)
    rank.service.start()
    try:
        yield rank
    finally:
        rank.service.stop()
        if isinstance(rank.cache, DeviceCache):
            rank.cache.close()
