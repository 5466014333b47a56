"""What the supervisor asks of an engine over HTTP, whichever engine it is."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from tandem_api.labels import HTTP_PORT
from tandem_worker.bearer import BearerKeys
from tandem_worker.errors import WorkerError
from tandem_worker.gate import HEALTH_PATH, INFLIGHT_PATH

RUNNING_METRIC = "vllm:num_requests_running"
WAITING_METRIC = "vllm:num_requests_waiting"
KV_USAGE_METRIC = "vllm:kv_cache_usage_perc"
METRICS_PATH = "/metrics"

_TIMEOUT = aiohttp.ClientTimeout(total=5)  # rendering and tokenizing long prompts blocks vLLM's loop for seconds
_FAULTS = (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, WorkerError)


@dataclass(frozen=True)
class EngineLoad:
    """What an engine's own metrics say. `kv_usage`: share of KV blocks in use, 0 to 1."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0


class EngineQuestions(Protocol):
    """What is asked of an engine."""

    async def is_healthy(self) -> bool: ...

    async def fetch_metrics(self) -> str | None: ...

    async def fetch_inflight(self) -> int | None: ...


class EngineApi:
    """A small client. Each question has an answer or None; an engine that does not answer is not an exception here."""

    def __init__(self, session: aiohttp.ClientSession, pod_ip: str, keys: BearerKeys, port: int = HTTP_PORT) -> None:
        self._session = session
        self._base = f"http://{_reachable(pod_ip)}:{port}"
        self._keys = keys

    async def is_healthy(self) -> bool:
        """Whether it can compute now."""
        return await self._fetch(HEALTH_PATH) is not None

    async def fetch_metrics(self) -> str | None:
        """Its Prometheus metrics, as text."""
        return await self._fetch(METRICS_PATH)

    async def fetch_inflight(self) -> int | None:
        """Requests that are open in it, with those whose last bytes are still on their way."""
        answer = await self._fetch(INFLIGHT_PATH)
        try:
            return None if answer is None else int(json.loads(answer)["inflight"])
        except _FAULTS:
            return None

    async def _fetch(self, path: str) -> str | None:
        try:
            headers = {} if path == HEALTH_PATH else {"authorization": f"Bearer {self._keys.fetch_current()}"}
            async with self._session.get(self._base + path, headers=headers, timeout=_TIMEOUT) as answer:
                return await answer.text() if answer.status == 200 else None
        except _FAULTS:
            return None


def read_load(metrics: str) -> EngineLoad:
    """Pick the load from metrics in Prometheus' text form; ranks of data parallelism are summed, KV usage averaged."""
    usage = list(_samples(metrics, KV_USAGE_METRIC))
    return EngineLoad(
        running=int(sum(_samples(metrics, RUNNING_METRIC))),
        waiting=int(sum(_samples(metrics, WAITING_METRIC))),
        kv_usage=sum(usage) / len(usage) if usage else 0.0,
    )


def _samples(metrics: str, name: str) -> Iterable[float]:
    """Values of the samples of `name`. Four times a second, a parser of all 50 KB would cost more than these lines."""
    prefix = f"\n{name}{{"
    start = metrics.find(prefix)
    while start >= 0:
        end = metrics.find("\n", start + 1)
        yield float(metrics[start : end if end >= 0 else None].rsplit(" ", 1)[-1])
        start = metrics.find(prefix, start + 1)


def _reachable(pod_ip: str) -> str:
    """An address to connect to, in the form that a URL wants, for an address that is bound."""
    address = {"::": "::1", "0.0.0.0": "127.0.0.1"}.get(pod_ip, pod_ip)
    return f"[{address}]" if ":" in address else address
