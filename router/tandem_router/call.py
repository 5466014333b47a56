"""The life of one accepted request: placed, prefilled, decoded, relayed. Faults are met as DESIGN §8 says."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from tandem_router.answer import Answer, open_answer
from tandem_router.ask import build_prefill_body, build_serving_body
from tandem_router.claims import Claim, Placement
from tandem_router.continuation import can_trace, plan_continuation, traced
from tandem_router.errors import DeadlineExceededError, RequestError, StreamBrokenError, UpstreamFailedError
from tandem_router.fleets import Worker
from tandem_router.headers import client_headers
from tandem_router.hedge import Hedge
from tandem_router.http1.exchange import UpstreamError
from tandem_router.http1.messages import Headers, encode_request
from tandem_router.http1.writer import ResponseWriter
from tandem_router.learning import (
    ahead_of,
    judge_templates,
    learn_decode,
    learn_own_prefill,
    learn_prefill,
    learn_transfer,
    predict_prefill_s,
)
from tandem_router.leases import Leases
from tandem_router.ledger import Outcome, RequestLedger, outcome_of
from tandem_router.legbook import LegBook
from tandem_router.legs import LegError, PrefillResult, give_up, run_prefill, with_bearers
from tandem_router.refusal import send_error
from tandem_router.serving import Order, Serving
from tandem_router.token_trail import TokenTrail
from tandem_router.tracing.spans import FIRST_CHUNK_S, QUEUE_S, ROUTE_REASON

UNWANTED_LOCAL = frozenset(("no_prefill_worker", "prefill_failed", "prefill_declined", "circuit_open"))
T = TypeVar("T")


class Call:
    """Serves one order. Until the writer has started, a failed leg is tried elsewhere."""

    def __init__(self, serving: Serving, order: Order, ledger: RequestLedger, writer: ResponseWriter) -> None:
        self._serving = serving
        self._order = order
        self._ledger = ledger
        self._writer = writer
        self._clock = monotonic
        ask = order.ask
        self._trail = TokenTrail() if order.fleet.spec.continuation == "Tokens" and can_trace(ask) else None
        self._ask = ask if self._trail is None else traced(ask)
        self._adapter = order.fleet.spec.adapter_of(ask.model)
        self._model = self._adapter or order.fleet.spec.served_name  # as engines know it
        span_s = (order.started_s, order.deadline_s)
        self.errand = serving.reception.read(order.fleet, ask, self._adapter, order.standing, span_s)
        cached = self.errand.cached_tokens
        ledger.demand.arrive(self.errand.tokens - cached, cached)
        self._legs = LegBook(order, next(serving.ids))
        self._leases = Leases(serving, order.fleet.spec)
        self._is_expired = False
        self._queued_s = 0.0
        self._prefill_ended_s: float | None = None
        self._kv_params: Mapping[str, Any] | None = None  # what the answering leg was given
        self._asked_s = 0.0  # when it was given it

    async def run(self) -> Outcome:
        """Serve the order to its end; every error has been told to the client when this returns."""
        try:
            return await self.serve()
        except RequestError as error:
            return self.tell(error)

    async def serve(self) -> Outcome:
        """Serve the order, as `run`, but tell no error.

        Raises:
            RequestError: it could not be served; whether the client has seen anything, its writer knows.
        """
        task = asyncio.current_task()
        assert task is not None
        expire = partial(self._expire, task)
        deadlines = self._serving.pool.deadlines.add(self._order.deadline_s, expire)
        try:
            return await self._attempt_all()
        except asyncio.CancelledError:
            if not self._is_expired or task.uncancel() > 0:
                raise
            raise DeadlineExceededError("The deadline of the request passed.", code="deadline_exceeded") from None
        finally:
            deadlines.discard(expire)
            self._leases.release_all()

    def _expire(self, task: asyncio.Task[Any]) -> None:
        self._is_expired = True
        task.cancel()

    def tell(self, error: RequestError) -> Outcome:
        """Give the client an error, however far its answer has come."""
        faults = self._ask.api.faults
        if not self._writer.is_started:
            send_error(self._writer, error, self._order.request_id, faults)
        elif not self._writer.is_ended:
            if not isinstance(error, DeadlineExceededError | StreamBrokenError):
                error = StreamBrokenError(f"The answer was broken off. {error.message}", code="stream_broken")
            if self._writer.accepts_chunks and self._ask.stream:
                self._writer.write(faults.build_event(error))
            self._writer.break_off()
        return outcome_of(error)

    async def _attempt_all(self) -> Outcome:
        failure: LegError | None = None
        self._order.fleet.retry_budget.earn()
        for _ in range(self._serving.rules.retries + 1):
            if failure is not None and not self._may_retry():
                break
            try:
                placement = await self._admit()
            except UpstreamFailedError:
                break  # nobody is left: what the last worker said tells the client more
            try:
                return await self._attempt(placement)
            except LegError as error:
                failure = error
                self._charge(error, "decode")
            finally:
                placement.release()
                self._leases.release_all()
        assert failure is not None, "the first placement excludes no worker"
        raise give_up(failure) from failure

    async def _attempt(self, placement: Placement) -> Outcome:
        params = await self._prefill(placement)
        self._ledger.count_route(placement.reason)
        if self._order.trace is not None:
            self._order.trace.describe({ROUTE_REASON: placement.reason, QUEUE_S: self._queued_s})
        self._count_split(placement, is_remote=params is not None)
        self._kv_params = params
        return await self._serve(placement, params)

    async def _admit(self) -> Placement:
        began_s = self._clock()
        placement = await self._serving.reception.admit(self._order.fleet, self.errand)
        waited_s = self._clock() - began_s
        self._queued_s += waited_s
        self._ledger.observe("queue", waited_s)
        return placement

    def _may_retry(self) -> bool:
        is_granted = self._order.fleet.retry_budget.spend(self._clock())
        if not is_granted:
            self._ledger.count_retry("over_budget")
        return is_granted

    def _charge(self, failure: LegError, leg: str) -> None:
        """Hold a failed leg against its own worker, and no other."""
        now_s = self._clock()
        self.errand.note_failure(failure.worker, now_s)
        failure.worker.note_failure(now_s)
        self._order.fleet.trials.note_fault(failure.worker.spec.template_revision)
        self._ledger.count_retry(leg)
        self._legs.close("leg_failed")

    def _count_split(self, placement: Placement, *, is_remote: bool) -> None:
        """Only local prefill that nobody wanted speaks against the fleet's disaggregation."""
        fleet = self._order.fleet
        if is_remote:
            fleet.remote_prefills += 1
        elif placement.reason in UNWANTED_LOCAL:
            fleet.local_prefills += 1

    async def _prefill(self, placement: Placement) -> Mapping[str, Any] | None:
        """KV transfer parameters for the answering leg; None when that must prefill itself.

        Raises:
            UpstreamFailedError: prefill failed, and `onPrefillFailure` is Fail.
        """
        tries = 0
        while placement.prefill is not None:
            try:
                result = await self._prefill_hedged(placement, placement.prefill)
            except LegError as failure:
                self._charge(failure, "prefill")
                tries += 1
                self._next_prefill(placement, tries)
                continue
            if placement.prefill is not None:
                placement.prefill.release()
            if result.kv_transfer_params is None:
                placement.reason = "prefill_declined"
            return result.kv_transfer_params
        return None

    async def _prefill_hedged(self, placement: Placement, claim: Claim) -> PrefillResult:
        """On the worker of `claim`, and on another too where that is late; `placement` then holds the one that won."""
        hedge = Hedge(partial(self._find_spare, placement), self._prefill_beside, self._hedge_after_s(claim))
        try:
            result = await self._with_bearers(partial(self._prefill_once, claim))
        except asyncio.CancelledError:
            if not hedge.has_won():
                raise
            result = hedge.take(placement)
        except LegError as failure:
            if not await hedge.outlives():
                raise
            self._charge(failure, "prefill")
            result = hedge.take(placement)
        finally:
            hedge.stop()
        if hedge.claim is not None and placement.prefill is not None:
            self._ledger.count_hedge("won" if placement.prefill is hedge.claim else "lost")
            self._leases.release_all(but=placement.prefill.worker)
        return result

    def _hedge_after_s(self, claim: Claim) -> float | None:
        hedging, terms = self._order.fleet.hedging, claim.worker.fits.prefill.terms
        hedging.earn()
        return None if terms is None else hedging.wait_s(predict_prefill_s(claim, terms))

    def _find_spare(self, placement: Placement) -> Claim | None:
        """An idle prefill worker beside the one that is late, if one may be spent on it."""
        fleet = self._order.fleet
        claim = self._serving.placer.spare_prefill(fleet, self.errand, placement, self._clock())
        if claim is None or fleet.hedging.spend():
            return claim
        claim.release()
        return None

    async def _prefill_beside(self, claim: Claim) -> PrefillResult:
        self._ledger.count_hedge("begun")
        try:
            return await self._with_bearers(partial(self._prefill_once, claim, is_hedge=True))
        except LegError as failure:
            self._charge(failure, "prefill")
            raise

    def _next_prefill(self, placement: Placement, tries: int) -> None:
        order, serving = self._order, self._serving
        policy = order.fleet.spec.on_prefill_failure
        claim = None
        if policy != "Local" and tries <= serving.rules.retries and self._may_retry():
            claim = serving.placer.replace_prefill(order.fleet, self.errand, placement.revision, self._clock())
        if claim is None and policy == "Fail":
            raise UpstreamFailedError("Prefill failed, and kvTransfer.onPrefillFailure is Fail.", code="prefill_failed")
        placement.replace_prefill(claim, "remote" if claim is not None else "prefill_failed")

    async def _prefill_once(self, claim: Claim, bearer: str | None, *, is_hedge: bool = False) -> PrefillResult:
        order, serving, worker = self._order, self._serving, claim.worker
        body = build_prefill_body(self._ask, self._model)
        leg_id, headers = self._open_leg("p", worker, bearer, is_hedge=is_hedge)
        timeout_s = serving.rules.prefill_timeout_s(self.errand.tokens)
        self._leases.hold(leg_id, worker)
        is_alone = worker.running == 1
        ahead_tokens, terms = ahead_of(claim), worker.fits.prefill.terms
        foretold_s = 0.0 if terms is None else predict_prefill_s(claim, terms)
        began_s = self._clock()
        try:
            result = await run_prefill(serving.pool, worker, self._ask.api, headers, body, timeout_s)
        except LegError as failure:
            if not failure.reached:
                self._leases.forget(leg_id)
            self._leases.release(leg_id)
            raise
        self._prefill_ended_s = now_s = self._clock()
        is_alone = is_alone and worker.running == 1
        self._ledger.observe("prefill", now_s - began_s)
        self._ledger.demand.prefilled(now_s, now_s - began_s if is_alone else None)
        learn_prefill(order.fleet, self.errand, worker, result.counts, ahead_tokens, (began_s, now_s))
        order.fleet.hedging.observe(foretold_s, now_s - began_s)
        self._take(worker, leg_id, result)
        self._legs.close()
        return result

    def _take(self, worker: Worker, leg_id: str, result: PrefillResult) -> None:
        worker.note_success()
        worker.hit_tokens.add(result.counts.cached, self._clock())
        if result.kv_transfer_params is None:
            self._leases.forget(leg_id)
        else:
            self._note_held(worker)

    def _note_held(self, worker: Worker) -> None:
        """`worker` holds the prompt's KV from now on, and the adapter."""
        self._serving.catalog.note_cached(worker, self.errand.blocks)
        if self._adapter:
            worker.note_adapter(self._adapter)

    async def _serve(self, placement: Placement, params: Mapping[str, Any] | None) -> Outcome:
        """The leg that answers the client.

        Raises:
            LegError: nothing has been sent to the client.
            StreamBrokenError: something has.
        """
        serving, worker = self._serving, placement.decode.worker
        body = build_serving_body(self._ask, self._model, params)

        async def open_with(bearer: str | None) -> Answer:
            _, headers = self._open_leg("d", worker, bearer)
            self._asked_s = self._clock()
            request = encode_request(b"POST", self._ask.api.target, worker.endpoint.authority, headers, body)
            return await open_answer(serving.pool, worker, request, serving.rules.first_byte_timeout_s)

        self._ledger.demand.hold(self._clock())
        try:
            answer = await self._with_bearers(open_with)
        except LegError:
            self._ledger.demand.let_go(self._clock())
            raise
        try:
            return await self._relay(answer, placement)
        except UpstreamError as error:
            if not self._writer.is_started:
                raise LegError(worker, str(error)) from error
            return self._go_on(worker, error)
        finally:
            self._ledger.demand.let_go(self._clock())
            answer.close()

    def _go_on(self, worker: Worker, error: UpstreamError) -> Outcome:
        """The worker was lost after something was sent: finish the answer, or have another worker go on with it.

        Raises:
            LegError: another may go on.
            StreamBrokenError: none can.
        """
        trail = self._trail
        if trail is None or not trail.can_continue:
            worker.note_failure(self._clock())
            self._order.fleet.trials.note_fault(worker.spec.template_revision)
            message = "The worker was lost in the middle of the answer."
            raise StreamBrokenError(message, code="stream_broken") from error
        if trail.is_finished:
            self._writer.write(trail.build_ending(with_usage=self._ask.wants_usage))
            self._writer.end()
            self._ledger.count_usage(trail.usage())
            return Outcome.OK
        trail.resume()
        self._ask = plan_continuation(traced(self._order.ask), trail)
        self._ledger.count_retry("continuation")
        raise LegError(worker, str(error)) from error

    async def _relay(self, answer: Answer, placement: Placement) -> Outcome:
        worker, is_begun = placement.decode.worker, self._writer.is_started
        headers = client_headers(
            answer.head.headers,
            request_id=self._order.request_id,
            served_by=placement.served_by,
            ours=self._order.answer_headers(self._clock()),
        )
        if is_begun and not (answer.head.status == 200 and answer.is_stream):
            raise StreamBrokenError("No other worker could go on with the answer.", code="stream_broken")
        if answer.head.status != 200:
            await answer.pass_on(self._writer, headers)
            return Outcome.REJECTED
        batch_before = worker.running
        relayed = await answer.relay(
            self._writer,
            headers,
            self._ask,
            self._trail,
            on_first=lambda: self._on_first(placement),
            on_event=lambda: self._ledger.mark_token(self._clock()),
        )
        worker.note_success()
        usage = relayed.usage
        self._ledger.count_usage(self._trail.whole_usage(usage) if self._trail is not None and usage else usage)
        learn_decode(worker, (batch_before + worker.running) / 2, self._ledger.tpot_s(), self._clock())
        if self._kv_params is None:
            first_s = None if is_begun or not answer.is_stream else self._ledger.first_token_s
            span_s = None if first_s is None else (self._asked_s, first_s)
            learn_own_prefill(self._order.fleet, self.errand, worker, self._ledger.counts, span_s)
        judge_templates(self._order, self._ledger, placement, self._clock(), has_error=relayed.has_error)
        return Outcome.ENGINE_ERROR if relayed.has_error else Outcome.OK

    def _on_first(self, placement: Placement) -> None:
        worker = placement.decode.worker
        self._leases.forget_all()
        self._note_held(worker)
        now_s = self._clock()
        if self._prefill_ended_s is not None and placement.prefill is not None:
            gap_s = now_s - self._prefill_ended_s
            self._ledger.observe("transfer_gap", gap_s)
            learn_transfer(self.errand, placement.prefill.worker, worker, gap_s, now_s)
            if self._kv_params is not None:
                self._serving.prober.note_traffic(self._order.fleet, placement.prefill.worker, worker, self._kv_params)
        if self._order.trace is not None:
            self._order.trace.describe({FIRST_CHUNK_S: now_s - self._order.started_s})

    async def _with_bearers(self, attempt: Callable[[str | None], Awaitable[T]]) -> T:
        return await with_bearers(self._serving.keys.engine_tokens(self._order.fleet.spec), attempt)

    def _open_leg(
        self, kind: str, worker: Worker, bearer: str | None, *, is_hedge: bool = False
    ) -> tuple[str, Headers]:
        if not self._legs.count:
            self._ledger.observe("overhead", self._clock() - self._order.started_s - self._queued_s)
        return self._legs.open(kind, worker, bearer, is_hedge=is_hedge)
