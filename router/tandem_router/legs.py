"""One leg of a request: the call to one worker, and what its answer means for the request."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from tandem_router import jsontext
from tandem_router.apis.shape import Api
from tandem_router.errors import OverloadedError, RequestError, UnavailableError, UpstreamFailedError
from tandem_router.fleets import Worker
from tandem_router.http1.exchange import ConnectError, OwnLimitError, UpstreamError
from tandem_router.http1.messages import Headers, Response, encode_request
from tandem_router.http1.outbound import UpstreamPool
from tandem_router.token_counts import TokenCounts, read_counts

T = TypeVar("T")
NOTHING_COUNTED = TokenCounts()
RETRIABLE = frozenset((408, 425, 429, 500, 502, 503, 504))
UNAUTHORIZED = 401  # the token is ours, not the client's: another of ours may fit, and no client is told
RELEASE_PATH = b"/tandem/v1/leases:release"
RELEASE_TIMEOUT_S = 2.0
MAX_PREFILL_ANSWER_BYTES = 4 << 20


class LegError(Exception):
    """The worker did not do its part; nothing has been sent to the client, so another may.

    Attributes:
        status: what the worker answered, None if it did not.
        reached: the worker may have begun to work.
    """

    def __init__(self, worker: Worker, reason: str, *, status: int | None = None, reached: bool = True) -> None:
        super().__init__(f"{worker.name}: {reason}")
        self.worker = worker
        self.status = status
        self.reached = reached


class PrefillResult(NamedTuple):
    """What the prefill leg brought.

    Attributes:
        kv_transfer_params: given verbatim to the decode worker; None when the prefill worker kept nothing.
        counts: the engine's; zeros if it did not tell.
    """

    kv_transfer_params: Mapping[str, Any] | None
    counts: TokenCounts = NOTHING_COUNTED


async def with_bearers(tokens: Sequence[str | None], attempt: Callable[[str | None], Awaitable[T]]) -> T:
    """`attempt` with the first of `tokens`, and with the next where the worker refuses that.

    While keys are rotated, pods take the new ones up one by one, at a time of the kubelet's choice.
    """
    try:
        return await attempt(tokens[0])
    except LegError as failure:
        if failure.status != UNAUTHORIZED or len(tokens) < 2:
            raise
    return await attempt(tokens[1])


async def run_prefill(
    pool: UpstreamPool, worker: Worker, api: Api, headers: Headers, body: bytes, timeout_s: float
) -> PrefillResult:
    """The prefill leg, whole.

    Raises:
        LegError: refused, died, timed out, or answered with what is not a completion.
        OverloadedError: this router can open no more connections.
    """
    request = encode_request(b"POST", api.target, worker.endpoint.authority, headers, body)
    try:
        answer = await pool.fetch(
            worker.endpoint, request, MAX_PREFILL_ANSWER_BYTES, worker.exchanges, timeout_s=timeout_s
        )
    except UpstreamError as error:
        raise fault_of(worker, error) from error
    return read_prefill(worker, answer, api)


def fault_of(worker: Worker, error: UpstreamError) -> LegError | OverloadedError:
    """What it means for a request that `worker` did not answer: its own fault, or ours."""
    if isinstance(error, OwnLimitError):
        return OverloadedError("The router can open no more connections.", code="router_full", retry_after_s=1)
    return LegError(worker, str(error), reached=not isinstance(error, ConnectError))


def read_prefill(worker: Worker, answer: Response, api: Api) -> PrefillResult:
    """What a prefill worker's answer means.

    Raises:
        LegError: an error that another worker may not have, or not a completion.
    """
    status = answer.head.status
    if status in RETRIABLE or status == UNAUTHORIZED:
        raise LegError(worker, f"HTTP {status}", status=status, reached=status != UNAUTHORIZED)
    if status != 200:
        return PrefillResult(None)  # the decode worker will tell the client what is wrong with the request
    try:
        fields = jsontext.loads(answer.body)
        params = fields.get("kv_transfer_params")
    except (jsontext.JSONDecodeError, AttributeError):
        raise LegError(worker, "the answer is not a completion", status=status) from None
    counts = read_counts(api.read_usage(fields) or {})
    return PrefillResult(params if isinstance(params, dict) else None, counts)


async def release_lease(pool: UpstreamPool, worker: Worker, bearers: Iterable[str | None], transport_id: str) -> None:
    """Tell a prefill worker that nobody will pull the KV of `transport_id`. Failure is left to the lease's expiry."""
    try:
        async with asyncio.timeout(RELEASE_TIMEOUT_S):
            for bearer in bearers:
                if await _release(pool, worker, bearer, transport_id) != UNAUTHORIZED:
                    return
    except (UpstreamError, TimeoutError):
        return


async def _release(pool: UpstreamPool, worker: Worker, bearer: str | None, transport_id: str) -> int:
    """Returns what the worker answered."""
    endpoint = worker.admin_endpoint
    if endpoint is None:
        return 0
    headers: Headers = [(b"Content-Type", b"application/json")]
    if bearer is not None:
        headers.append((b"Authorization", b"Bearer " + bearer.encode()))
    body = jsontext.dumps({"request_id": transport_id})
    request = encode_request(b"POST", RELEASE_PATH, endpoint.authority, headers, body)
    return (await pool.fetch(endpoint, request)).head.status


def give_up(failure: LegError) -> RequestError:
    """What the client is told when the last retry has failed."""
    if failure.status == 429:
        return OverloadedError("The workers are overloaded.", code="workers_overloaded", retry_after_s=1)
    if failure.status == 503:
        return UnavailableError("The workers are not available.", code="workers_unavailable", retry_after_s=1)
    return UpstreamFailedError("The workers failed before the first byte of the answer.", code="workers_failed")
