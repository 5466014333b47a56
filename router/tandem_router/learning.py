"""What the legs of a request teach about the workers that ran them."""

from tandem_router.errand import Errand
from tandem_router.fleets import Fleet, Worker
from tandem_router.policy.costs import decode_step_s, missing_tokens
from tandem_router.token_counts import TokenCounts

MIN_SECONDS = 1e-4


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
    prompt, computed = counts.prompt, max(0, counts.prompt - counts.cached)
    began_s, ended_s = span_s
    if not prompt:
        return
    fleet.token_ratio.observe(errand.prompt_bytes, prompt)
    worker.hit_trust.observe(errand.hit_share(worker), (prompt - computed) / prompt)
    worker.fits.observe_prefill(ahead_tokens, computed, ended_s - began_s, ended_s)


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
