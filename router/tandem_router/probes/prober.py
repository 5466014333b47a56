"""Probes edges with a request of our own, and asks what became of real ones (DESIGN §7)."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem_api.router import KVEdges
from tandem_api.worker import KVLoad
from tandem_router import jsontext
from tandem_router.apis.completions import TEXT
from tandem_router.ask import PREFILL_KV_PARAMS
from tandem_router.claims import Claim
from tandem_router.fleets import Catalog, Fleet, Worker
from tandem_router.headers import leg_headers
from tandem_router.http1.exchange import UpstreamError
from tandem_router.http1.messages import encode_request
from tandem_router.http1.outbound import UpstreamPool
from tandem_router.keys import KeyRing
from tandem_router.legs import LegError, release_lease, run_prefill
from tandem_router.liveness import fetch_state
from tandem_router.probes.edges import Edge, EdgeBook, Finding

LOG = logging.getLogger(__name__)
TICK_S = 1.0
PROBE_S = 60.0
PROMPT_WORDS = 288  # a token each at least: two blocks of the largest usual size, and a bit
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ANSWER_TOKENS = 2


class ProbeError(Exception):
    """The probe could not be carried through; the message says where it ended."""


@dataclass
class KVProber:
    """Probes the fleets that this replica is to probe.

    Attributes:
        is_ours: whether this replica probes a fleet, by its uid.
    """

    catalog: Catalog
    pool: UpstreamPool
    keys: KeyRing
    is_ours: Callable[[str, float], bool]
    books: dict[str, EdgeBook] = field(default_factory=dict)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Look for edges to probe until cancelled."""
        try:
            while True:
                await asyncio.sleep(TICK_S)
                self.tick(self.pool.loop.time())
        finally:
            for task in self._running:
                task.cancel()

    def tick(self, now_s: float) -> None:
        """One look at all fleets."""
        for uid in [uid for uid in self.books if uid not in self.catalog.fleets]:
            del self.books[uid]
        for uid, fleet in self.catalog.fleets.items():
            pairs = {edge_of(*pair): pair for pair in pairs_of(fleet, now_s)}
            book = self.books.setdefault(uid, EdgeBook())
            book.keep(pairs, now_s)
            fleet.kv_edges = describe(book)
            edge = book.choose(now_s) if pairs and self.is_ours(uid, now_s) else None
            if edge is not None:
                self._spawn(self._probe(fleet, book, edge, pairs[edge]))

    def note_traffic(self, fleet: Fleet, prefill: Worker, decode: Worker, params: Mapping[str, Any]) -> None:
        """A real request went over an edge, with these parameters: once a minute, ask what became of its KV."""
        book = self.books.get(fleet.spec.uid)
        if book is None:
            return
        edge = edge_of(prefill, decode)
        if book.wants_proof(edge, self.pool.loop.time()):
            self._spawn(self._follow_up(book, edge, decode, str(params.get("remote_request_id", ""))))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.pool.loop.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _follow_up(self, book: EdgeBook, edge: Edge, decode: Worker, load_id: str) -> None:
        load = await self._find_load(decode, load_id)
        if load is not None:
            book.note(edge, judge(load, self.pool.loop.time()))

    async def _probe(self, fleet: Fleet, book: EdgeBook, edge: Edge, pair: tuple[Worker, Worker]) -> None:
        claims = [Claim(worker, PROMPT_WORDS, fleet.queue.wake) for worker in pair]
        try:
            async with asyncio.timeout(PROBE_S):
                load = await self._send(fleet, *pair)
            finding = None if load is None else judge(load, self.pool.loop.time())
        except (ProbeError, LegError, UpstreamError, TimeoutError) as error:
            finding = Finding(False, self.pool.loop.time(), reason=str(error) or f"no answer within {PROBE_S:g} s")
        finally:
            for claim in claims:
                claim.release()
        if finding is not None:  # else its connector keeps no account: the counters of real traffic must do
            book.note(edge, finding)
            LOG.info("KV probe", extra={"edge": edge._asdict(), "moved": finding.moved, "reason": finding.reason})

    async def _send(self, fleet: Fleet, prefill: Worker, decode: Worker) -> KVLoad | None:
        """One request over an edge, and what became of its KV; None when the worker does not tell."""
        bearer = self.keys.engine_tokens(fleet.spec)[0]
        fields = {
            "model": fleet.spec.served_name,
            "prompt": build_prompt(),
            "temperature": 0,
        }
        probe_id = f"probe-{secrets.token_hex(16)}"
        body = {**fields, "max_tokens": 1, "kv_transfer_params": PREFILL_KV_PARAMS}
        headers = leg_headers([JSON_TYPE], transport_id=f"{probe_id}-p01", bearer=bearer, remaining_s=PROBE_S)
        result = await run_prefill(self.pool, prefill, TEXT, headers, jsontext.dumps(body), PROBE_S)
        params = result.kv_transfer_params
        if params is None:
            raise ProbeError(f"{prefill.name} kept no KV")
        try:
            body = {**fields, "max_tokens": ANSWER_TOKENS, "kv_transfer_params": params}
            await self._decode(decode, body, probe_id, bearer)
        except (ProbeError, UpstreamError):
            await release_lease(self.pool, prefill, [bearer], f"{probe_id}-p01")
            raise
        return await self._find_load(decode, str(params.get("remote_request_id", "")))

    async def _decode(self, decode: Worker, body: dict[str, Any], probe_id: str, bearer: str | None) -> None:
        headers = leg_headers([JSON_TYPE], transport_id=f"{probe_id}-d01", bearer=bearer, remaining_s=PROBE_S)
        request = encode_request(b"POST", TEXT.target, decode.endpoint.authority, headers, jsontext.dumps(body))
        answer = await self.pool.fetch(decode.endpoint, request, inflight=decode.exchanges, timeout_s=PROBE_S)
        if answer.head.status != 200:
            raise ProbeError(f"{decode.name} answered HTTP {answer.head.status}")

    async def _find_load(self, decode: Worker, load_id: str) -> KVLoad | None:
        endpoint = decode.admin_endpoint
        if endpoint is None or not load_id:
            return None
        state = await fetch_state(self.pool, endpoint, load_id)
        return state.load if state is not None else None


JSON_TYPE = (b"Content-Type", b"application/json")


def build_prompt() -> str:
    """A prompt that no cache holds."""
    return " ".join(secrets.choice(LETTERS) + secrets.choice(LETTERS) for _ in range(PROMPT_WORDS))


def describe(book: EdgeBook) -> KVEdges:
    """What is known of a fleet's edges."""
    proved, failing, untested = book.counts()
    failure = book.newest_failure()
    text = "" if failure is None else f"{failure[0].prefill} to {failure[0].decode}: {failure[1].reason}"
    return KVEdges(proved=proved, failing=failing, untested=untested, failure=text[:300])


def pairs_of(fleet: Fleet, now_s: float) -> list[tuple[Worker, Worker]]:
    """Pairs of usable workers of equal kv-revision whose states are known."""
    usable = [worker for worker in fleet.usable(now_s) if worker.state is not None]
    prefills = [worker for worker in usable if worker.is_prefill]
    decodes = [worker for worker in usable if not worker.is_prefill]
    return [(p, d) for p in prefills for d in decodes if p.spec.kv_revision == d.spec.kv_revision]


def edge_of(prefill: Worker, decode: Worker) -> Edge:
    """The edge between two workers as they run now."""
    return Edge(prefill.spec.kv_revision, prefill.name, prefill.instance, decode.name, decode.instance)


def judge(load: KVLoad, now_s: float) -> Finding:
    """Whether KV came whole."""
    moved = load.bytes_received > 0 and load.remote_tokens > 0
    reason = "" if moved else f"{load.recomputed_tokens} tokens were computed again, {load.bytes_received} bytes came"
    return Finding(moved, now_s, load.bytes_received, load.remote_tokens, reason)
