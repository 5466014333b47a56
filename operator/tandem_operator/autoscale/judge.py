"""Whether a request that ended met its objectives, and which pool is to blame where it did not."""

from dataclasses import dataclass

from tandem_api.router import EndingRecord
from tandem_api.v1alpha1 import InferenceDeploymentSpec
from tandem_core.performance import PerformanceModel

HANDOVER_S = 0.1  # between the end of prefill and the first token, when nothing waits


@dataclass(frozen=True, slots=True)
class Verdict:
    """One request: answered or not, and what it missed. A miss of TTFT is the fault of one pool."""

    prefill_miss: bool
    decode_miss: bool
    ttft_miss: bool
    tpot_miss: bool


@dataclass(frozen=True, slots=True)
class Judge:
    """Targets of one fleet; None: that objective is not set.

    Attributes:
        model: how long a prompt takes alone; None: unknown, no prompt may take longer than `ttft_s`.
    """

    ttft_s: float | None
    tpot_s: float | None
    isolated_factor: float = 0.0
    model: PerformanceModel | None = None

    def ttft_target_s(self, asked_s: float | None, new_tokens: float, cached_tokens: float) -> float:
        """The client's own target, else max(seconds, isolatedFactor × prefill alone); infinite without an objective."""
        if asked_s is not None:
            return asked_s
        if self.ttft_s is None:
            return float("inf")
        alone_s = self.model.prefill_s(new_tokens, cached_tokens) if self.model else 0.0
        return max(self.ttft_s, self.isolated_factor * alone_s)

    def judge(self, ended: EndingRecord) -> Verdict:
        """A failed request missed both; one whose client left before a first token was late missed nothing."""
        new_tokens = max(0, ended.prompt_tokens - ended.cached_tokens)
        target_s = self.ttft_target_s(ended.ttft_target_s, new_tokens, ended.cached_tokens)
        tpot_s = ended.tpot_target_s if ended.tpot_target_s is not None else self.tpot_s
        ttft_miss = ended.is_failed or (ended.ttft_s is not None and ended.ttft_s > target_s)
        tpot_miss = ended.is_failed or (tpot_s is not None and ended.tpot_s is not None and ended.tpot_s > tpot_s)
        late_on_decode = ttft_miss and _was_prefilled_in_time(ended, target_s)
        return Verdict(
            prefill_miss=ttft_miss and not late_on_decode,
            decode_miss=late_on_decode or (tpot_miss and not ended.is_failed),
            ttft_miss=ttft_miss,
            tpot_miss=tpot_miss,
        )


def _was_prefilled_in_time(ended: EndingRecord, target_s: float) -> bool:
    """Prefill was done early enough, or there were tokens at all: what came later is decode's."""
    if ended.is_failed and ended.ttft_s is not None:
        return True
    return ended.prefilled_s is not None and ended.prefilled_s + HANDOVER_S <= target_s


def build_judge(spec: InferenceDeploymentSpec, model: PerformanceModel | None) -> Judge:
    """The targets of a spec; those that it leaves out judge nothing."""
    ttft = spec.objectives.ttft if spec.objectives else None
    tpot = spec.objectives.tpot if spec.objectives else None
    return Judge(
        ttft_s=ttft.seconds if ttft else None,
        tpot_s=tpot.seconds if tpot else None,
        isolated_factor=ttft.isolated_factor if ttft else 0.0,
        model=model,
    )
