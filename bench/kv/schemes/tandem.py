"""Tandem's whole path: two KV services, control and data connections, lease, signed ticket, `tcp` transport."""

import asyncio
import base64
import secrets
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.kv.cache import Cache
from bench.kv.peer import Peer
from bench.kv.shape import BLOCK_TOKENS, KV_HEADS, LAYERS, PAGE_BYTES

from tandem_worker.kv.decode_side import Peer as Rank
from tandem_worker.kv.keys import fetch_keys
from tandem_worker.kv.loads import Load
from tandem_worker.kv.local import fetch_stats
from tandem_worker.kv.messages import Engine, GroupShape
from tandem_worker.kv.params import issue_ticket
from tandem_worker.kv.pull_actions import Job
from tandem_worker.kv.service import KvService
from tandem_worker.kv.settings import KvSettings

IS_SCATTERED = True
_ADDRESS, _FLEET = "127.0.0.1", "bench/kv"
_POLL_S = 0.001  # an engine asks once per step; this must not blur the measurement
_TIMEOUT_S = 60


class Prefill:
    def __init__(self, cache: Cache, blocks: list[int], chunk_bytes: int, peer: Peer) -> None:
        key = secrets.token_bytes(32)
        self._end = _End("prefill", cache, chunk_bytes, key)
        self._blocks, self._peer, self._number = blocks, peer, 0
        peer.say([base64.b64encode(key).decode(), self._end.settings.port, self._end.engine.engine_id])

    def prepare(self) -> None:
        """A prefill has ended: its blocks are leased."""
        self._end.service.take_results()
        self._number += 1
        self._end.service.register_lease(f"request-{self._number}", [self._blocks])

    def send(self) -> None:
        """The service answers pulls by itself."""

    def close(self) -> None:
        self._end.close()


class Decode:
    def __init__(self, cache: Cache, sent: list[int], received: list[int], chunk_bytes: int, peer: Peer) -> None:
        key, port, engine_id = peer.hear()
        self._end = _End("decode", cache, chunk_bytes, base64.b64decode(key))
        self._rank = Rank(_ADDRESS, port, engine_id)
        self._sent, self._received, self._number = sent, received, 0
        self._heads = (cache.layout.groups[0].all_heads,)

    def receive(self) -> None:
        self._number += 1
        request_id = f"request-{self._number}"
        job = Job(
            request_id, self._ticket(request_id), (tuple(self._sent),), self._heads, (tuple(self._received),),
            self._heads,
        )  # fmt: skip
        tokens = BLOCK_TOKENS * len(self._received)
        self._end.service.load(Load(request_id, job.local_blocks, 0, tokens, BLOCK_TOKENS, 1), [(self._rank, job)])
        self._await_load()

    def _await_load(self) -> None:
        end_s = time.monotonic() + _TIMEOUT_S
        while not (loaded := self._end.service.take_results().loaded):
            if time.monotonic() > end_s:
                raise RuntimeError(f"no result within {_TIMEOUT_S} s")
            time.sleep(_POLL_S)
        if loaded[0].missing_blocks:
            stats = asyncio.run(fetch_stats(self._end.settings.local_socket(0)))
            raise RuntimeError(f"{len(loaded[0].missing_blocks)} blocks did not come: {stats['failures']}")

    def _ticket(self, request_id: str) -> dict[str, Any]:
        fields = {
            "remote_engine_id": self._rank.engine_id, "remote_request_id": request_id,
            "remote_block_ids": [self._sent], "remote_host": _ADDRESS, "remote_port": self._rank.port, "tp_size": 1,
            "remote_num_tokens": BLOCK_TOKENS * len(self._sent), "prompt_digest": "0" * 64, "expiry": 0,
            "fleet": _FLEET,
        }  # fmt: skip
        return issue_ticket(fields, fetch_keys(self._end.settings.keys_dir)).model_dump()

    def close(self) -> None:
        self._end.close()


class _End:
    """One KV service without an engine."""

    def __init__(self, name: str, cache: Cache, chunk_bytes: int, key: bytes) -> None:
        self._directory = tempfile.TemporaryDirectory()
        folder = Path(self._directory.name)
        (folder / "kv.key").write_text(base64.urlsafe_b64encode(key).decode())
        self.settings = KvSettings(
            bind_host=_ADDRESS, port=_find_free_port(), keys_dir=folder, kv_revision="bench", fleet=_FLEET,
            engine_id=name, run_dir=folder, chunk_bytes=chunk_bytes,
        )  # fmt: skip
        self.engine = _describe_engine(f"{name}/{secrets.token_hex(4)}", chunk_bytes)
        self.service = KvService(self.engine, self.settings, cache.layout, cache.memory)
        self.service.start()

    def close(self) -> None:
        self.service.stop()
        self._directory.cleanup()


def _describe_engine(engine_id: str, chunk_bytes: int) -> Engine:
    group = GroupShape(
        layers=[f"layer{number}" for number in range(LAYERS)],
        page_tokens=BLOCK_TOKENS,
        head_bytes_per_token=PAGE_BYTES // BLOCK_TOKENS // KV_HEADS,
        kv_heads=KV_HEADS,
    )
    return Engine(
        engine_id=engine_id, fleet=_FLEET, kv_revision="bench", engine_version="bench", model="llama-3-8b",
        dtype="bfloat16", cache_dtype="auto", layout="LBHNC", block_size=BLOCK_TOKENS, groups=[group], tp_size=1,
        tp_rank=0, transport="tcp", chunk_bytes=chunk_bytes,
    )  # fmt: skip


def _find_free_port() -> int:
    with socket.create_server((_ADDRESS, 0)) as listener:
        return int(listener.getsockname()[1])
