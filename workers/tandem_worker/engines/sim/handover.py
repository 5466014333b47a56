"""KV hand-over between sim engines: real leases, real signed tickets, a real connection; only the bytes are modelled.

Conversation on the KV port, one JSON object per line:  decode {"ticket": …}  prefill {"tokens": n} or {"error": reason}
                                                        decode {"done": true} after the modelled transfer time
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tandem_api.worker import LOADS_REMEMBERED
from tandem_worker.engines.sim.settings import SimSettings
from tandem_worker.engines.sim.timing import transfer_ms
from tandem_worker.kv.keys import KeyFiles
from tandem_worker.kv.leases import LeaseTable
from tandem_worker.kv.loads import LoadResult
from tandem_worker.kv.local_server import serve_local
from tandem_worker.kv.params import Ticket, TicketError, digest_prompt, issue_ticket, read_ticket
from tandem_worker.kv.recent_loads import RecentLoads
from tandem_worker.settings import Settings

TOMBSTONE_S = 60.0
EXPIRY_POLL_S = 0.2
PULL_TIMEOUT_S = 5.0
NIXL_EXTRAS = {"dcp_size": 1, "pp_size": 1, "remote_blocks_expiry_time": None, "transfer_mode": "pull"}


class Handover:
    """Both ends: a prefill worker issues and serves tickets, a decode worker redeems them.

    Args:
        may_serve: asked before a pull is answered; False refuses it.
    """

    def __init__(self, settings: Settings, sim: SimSettings, instance: str, may_serve: Callable[[], bool]) -> None:
        assert settings.config.kv_transfer is not None
        self._settings = settings
        self._sim = sim
        self._instance = instance
        self._may_serve = may_serve
        self._signer = KeyFiles(settings.keys_dir)
        self._lease_s = settings.config.kv_transfer.lease_s
        self._extras = NIXL_EXTRAS if settings.config.kv_transfer.connector == "nixl" else {}
        self._leases = LeaseTable(self._lease_s, TOMBSTONE_S)
        self._leased_tokens: dict[str, int] = {}
        self._totals: Counter[str] = Counter()
        self._transfer_s = 0.0
        self._failures: Counter[str] = Counter()
        self._recent = RecentLoads(LOADS_REMEMBERED)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Listen on the KV port and on the rank's local socket while the context lasts."""
        async with AsyncExitStack() as stack:
            port = self._settings.config.kv_port
            server = await asyncio.start_server(self._converse, self._settings.pod_ip, port)
            stack.callback(server.close)
            await stack.enter_async_context(serve_local(self._settings.run_dir / "kv-0.sock", self._answer_local))
            expiry = asyncio.create_task(self._expire())
            stack.callback(expiry.cancel)
            yield

    @property
    def leased_tokens(self) -> int:
        """KV tokens that are kept for decode workers."""
        return sum(self._leased_tokens.values())

    def issue(self, request_id: str, prompt: str, prompt_tokens: int) -> dict[str, Any]:
        """Begin a lease; returns the kv_transfer_params of the prefill answer."""
        self._leased_tokens[request_id] = prompt_tokens
        self._free(self._leases.register(request_id, [[0]], time.monotonic()))
        fields = {
            "remote_engine_id": self._instance,
            "remote_request_id": request_id,
            "remote_block_ids": [[0]],
            "remote_host": self._settings.pod_ip,
            "remote_port": self._settings.config.kv_port,
            "tp_size": 1,
            "remote_num_tokens": prompt_tokens,
            "prompt_digest": _digest(prompt),
            "expiry": int(time.time() + self._lease_s),
            "fleet": self._settings.config.fleet,
        }
        return issue_ticket(fields, self._signer).to_params() | self._extras

    async def pull(self, params: Mapping[str, Any], prompt: str) -> int:
        """Redeem a ticket. Returns the prompt tokens whose KV arrived, 0 after a failure, which is counted."""
        started_s = time.monotonic()
        try:
            ticket = self._check(params, prompt)
            async with asyncio.timeout(PULL_TIMEOUT_S):
                tokens = await self._fetch(ticket)
        except (TicketError, OSError, TimeoutError, ValueError, KeyError) as error:
            self._count_failure(error, params)
            return 0
        self._transfer_s += time.monotonic() - started_s
        self._count_load(ticket, tokens)
        return tokens

    def _count_load(self, ticket: Ticket, tokens: int) -> None:
        size_bytes = tokens * self._sim.kv_token_bytes
        self._totals.update(transfers=1, bytes_received=size_bytes, remote_tokens=tokens)
        result = LoadResult(ticket.remote_request_id, frozenset(), False, tokens, 0, size_bytes)
        self._recent.remember(ticket.remote_request_id, ticket.remote_host, result)

    def _check(self, params: Mapping[str, Any], prompt: str) -> Ticket:
        ticket = read_ticket(params, self._settings.config.fleet, self._signer)
        if ticket.prompt_digest != _digest(prompt):
            raise TicketError("other_prompt", "kv_transfer_params were issued for another prompt")
        return ticket

    def _count_failure(self, error: Exception, params: Mapping[str, Any]) -> None:
        self._failures[error.reason if isinstance(error, TicketError) else "peer_unreachable"] += 1
        tokens = params.get("remote_num_tokens", 0)
        self._totals["recomputed_tokens"] += tokens if isinstance(tokens, int) else 0

    async def _fetch(self, ticket: Ticket) -> int:
        reader, writer = await asyncio.open_connection(ticket.remote_host, ticket.remote_port)
        try:
            writer.write(_line({"ticket": ticket.model_dump()}))
            answer = json.loads(await reader.readline())
            if "error" in answer:
                raise TicketError(str(answer["error"]), "the prefill worker refused the pull")
            await asyncio.sleep(transfer_ms(self._sim, answer["tokens"]) / 1000 / self._sim.speed)
            writer.write(_line({"done": True}))
            await writer.drain()
            return int(answer["tokens"])
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PULL_TIMEOUT_S):
                await self._serve_pull(reader, writer)
        except (OSError, TimeoutError, ValueError, KeyError):
            self._failures["pull_broken"] += 1
        finally:
            writer.close()

    async def _serve_pull(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request_id, tokens = self._redeem(json.loads(await reader.readline()))
        except TicketError as error:
            self._failures[error.reason] += 1
            writer.write(_line({"error": error.reason}))
            return
        writer.write(_line({"tokens": tokens}))
        if json.loads(await reader.readline() or b"{}").get("done"):
            self._totals.update(transfers=1, bytes_sent=tokens * self._sim.kv_token_bytes)
            self._free(self._leases.release(request_id, 0, frozenset({0}), time.monotonic()))

    def _redeem(self, request: Mapping[str, Any]) -> tuple[str, int]:
        ticket = read_ticket(request["ticket"], self._settings.config.fleet, self._signer)
        if not self._may_serve():
            raise TicketError("refused_by_fault", "told to refuse")
        if ticket.remote_engine_id != self._instance:
            raise TicketError("other_engine", "the ticket was issued by a former self")
        if self._leases.find(ticket.remote_request_id) is None:
            raise TicketError("no_lease", "the lease has ended")
        return ticket.remote_request_id, self._leased_tokens[ticket.remote_request_id]

    def _answer_local(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("op") == "stats":
            return self._stats()
        if request.get("op") == "load":
            load = self._recent.find(str(request.get("request_id")))
            return {"load": load.to_dict() if load else None}
        if request.get("op") != "release":
            return {"error": "op must be stats, load or release"}
        target = request.get("request_id") or request.get("params", {}).get("remote_request_id")
        if not isinstance(target, str) or not target:
            return {"error": "request_id or params.remote_request_id is missing"}
        freed = self._leases.drop_matching(target, time.monotonic())
        self._free(freed)
        return {"released": len(freed)}

    def _stats(self) -> dict[str, Any]:
        return {
            **self._totals,
            "leases": len(self._leases),
            "transfer_seconds": self._transfer_s,
            "failures": dict(self._failures),
        }

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_POLL_S)
            self._free(self._leases.expire(time.monotonic()))

    def _free(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            self._leased_tokens.pop(request_id, None)


def _digest(prompt: str) -> str:
    return digest_prompt(list(prompt.encode()))


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
