"""What the legs of a request teach about the workers that ran them."""

from tandem_router.claims import Claim, Placement
from tandem_router.errand import Errand
from tandem_router.fleets import Fleet, Worker
from tandem_router.ledger import RequestLedger
from tandem_router.policy.costs import decode_step_s, missing_tokens, prefill_s
from tandem_router.policy.learned import Terms
from tandem_router.serving import Order
from tandem_router.token_counts import TokenCounts
from tandem_router.trials import is_over

MIN_SECONDS = 1e-4


def ahead_of(claim: Claim) -> int:
    """Tokens that its worker has to prefill before those of `claim`."""
    return claim.worker.backlog_tokens - claim.tokens


def predict_prefill_s(claim: Claim, terms: Terms) -> float:
    """What the prefill of `claim` takes by what its worker has taught."""
    return prefill_s(terms, ahead_of(claim), claim.tokens)


def learn_prefill(
    fleet: Fleet,
    errand: Errand,
    worker: Worker,
    counts: TokenCounts,
    ahead_tokens: int,
    span_s: tuple[float, float],
) -> None:
    """A prompt was prefilled.

    Args:
        counts: the engine's; zeros where it did not tell.
        ahead_tokens: what the worker had to do before it.
        span_s: (begin, end).
    """
    began_s, ended_s = span_s
    learn_prompt(fleet, errand, worker, counts)
    if counts.prompt:
        computed = max(0, counts.prompt - counts.cached)
        worker.fits.observe_prefill(ahead_tokens, computed, ended_s - began_s, ended_s)


def learn_prompt(fleet: Fleet, errand: Errand, worker: Worker, counts: TokenCounts) -> None:
    """An engine counted a prompt, and what of it its cache held."""
    if counts.prompt:
        fleet.token_ratio.observe(errand.prompt_bytes, counts.prompt)
        worker.hit_trust.observe(errand.hit_share(worker), min(counts.cached, counts.prompt) / counts.prompt)


def learn_own_prefill(
    fleet: Fleet, errand: Errand, worker: Worker, counts: TokenCounts, span_s: tuple[float, float] | None
) -> None:
    """A worker that decodes has prefilled the prompt itself.

    Args:
        span_s: from when it had the request to its first token; None where no first token was seen by itself.
    """
    if span_s is None:
        learn_prompt(fleet, errand, worker, counts)
        return
    began_s, first_s = span_s
    terms = worker.fits.decode.terms
    step_s = decode_step_s(terms, worker, 0) if terms is not None else 0.0
    learn_prefill(fleet, errand, worker, counts, 0, (began_s, max(began_s + MIN_SECONDS, first_s - step_s)))


def learn_transfer(errand: Errand, prefill: Worker, decode: Worker, gap_s: float, now_s: float) -> None:
    """KV came to `decode`, and its first token followed `gap_s` after the end of the prefill."""
    terms = decode.fits.decode.terms
    step_s = decode_step_s(terms, decode, errand.tokens) if terms is not None else 0.0
    tokens = missing_tokens(errand.want, decode, errand.hits)
    is_near = prefill.topology == decode.topology
    decode.fits.observe_transfer(tokens, max(MIN_SECONDS, gap_s - step_s), now_s, is_near=is_near)


def learn_decode(worker: Worker, batch: float, tpot_s: float | None, now_s: float) -> None:
    """An answer was produced in a batch of `batch` requests on average."""
    if tpot_s is not None and batch > 0:
        worker.fits.observe_decode(batch, worker.backlog_tokens, tpot_s, now_s)


def judge_templates(
    order: Order, ledger: RequestLedger, placement: Placement, now_s: float, *, has_error: bool
) -> None:
    """The answer is whole: what it says of its workers' templates, and of the usefulness of their caches."""
    trials, spec, decode = order.fleet.trials, order.fleet.spec, placement.decode.worker
    if placement.prefill is None:
        decode.hit_tokens.add(ledger.counts.cached, now_s)
    if has_error:
        trials.note_fault(decode.spec.template_revision)
        return
    ttft_s = None if ledger.first_token_s is None else ledger.first_token_s - order.started_s
    trials.note_end(
        [claim.worker.spec.template_revision for claim in (placement.decode, placement.prefill) if claim],
        ttft_missed=is_over(ttft_s, spec.ttft_target_s),
        tpot_missed=is_over(ledger.tpot_s(), spec.tpot_target_s),
    )
