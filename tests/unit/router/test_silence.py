"""When a worker that says nothing is given up."""

import asyncio

import pytest

from tandem_router.fleets import ALIVE_S, STALL_S, Worker
from tandem_router.http1.exchange import Exchange, WorkerLostError
from tandem_router.http1.messages import ResponseHead
from tandem_router.snapshot import WorkerSpec


def open_exchange(seen_s: float) -> tuple[Worker, Exchange, float]:
    """A worker whose state was last read at `seen_s` after now, an exchange that waits there, and now."""
    exchange = Exchange(asyncio.get_running_loop())
    worker = Worker(WorkerSpec("w", "u", "decode", "127.0.0.1", 1, 2, "r"), 1, 8)
    worker.exchanges.add(exchange)
    worker.seen_s = exchange.last_byte_s + seen_s
    return worker, exchange, exchange.last_byte_s


async def test_a_long_prompt_may_take_its_time_on_a_worker_that_is_alive() -> None:
    """Before the first byte the leg's own deadline holds, which may be longer."""
    worker, exchange, start_s = open_exchange(seen_s=STALL_S + 1)
    worker.fail_silent(start_s + STALL_S + 2)
    assert not exchange.has_begun


async def test_an_answer_that_stops_is_given_up_although_its_worker_seems_alive() -> None:
    """A stream that hangs for two minutes will not go on."""
    worker, exchange, start_s = open_exchange(seen_s=STALL_S + 1)
    exchange.on_head(ResponseHead(200, [], True))
    exchange.on_body(b"data: x\n\n")
    sink = Failures()
    exchange.relay_to(sink)
    worker.fail_silent(start_s + STALL_S + 2)
    assert isinstance(sink.error, WorkerLostError)


async def test_whatever_waits_on_a_worker_that_is_gone_is_given_up_in_seconds() -> None:
    """Also before the first byte: another worker can still serve it."""
    worker, exchange, start_s = open_exchange(seen_s=0)
    worker.fail_silent(start_s + ALIVE_S + 0.5)
    with pytest.raises(WorkerLostError):
        await exchange.first_byte()


class Failures:
    """A sink that keeps how the body ended."""

    error: Exception | None = None

    def on_body(self, data: bytes) -> None:
        """Bytes are not looked at."""

    def on_end(self) -> None:
        """A good end is not looked at."""

    def on_failure(self, error: Exception) -> None:
        self.error = error
