"""What the autoscaler is told: the fleet's limits and objectives, and the few constants of the method."""

from dataclasses import dataclass, field, replace
from typing import Literal

from tandem_core.performance import PerformanceModel
from tandem_core.targets import Objectives

Role = Literal["prefill", "decode"]
ROUND_S = 5.0  # between two decisions on a fleet, in production and in the simulator


class BadSettingsError(ValueError):
    """A limit cannot be; the message names the field and the fix."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of one pool in workers. `gpus`: those of one worker; `scheduled`: a schedule has set the minimum."""

    gpus: int
    minimum: int = 1
    maximum: int = 10_000
    scheduled: bool = False

    def __post_init__(self) -> None:
        if self.gpus < 0:
            raise BadSettingsError(f"resources.gpu is {self.gpus}: give zero or more")
        if not 0 <= self.minimum <= self.maximum:
            raise BadSettingsError(f"min {self.minimum} and max {self.maximum}: min must lie between 0 and max")

    def with_scheduled(self, least: int) -> "PoolLimits":
        """The same, not below what a schedule asks for (within the maximum)."""
        least = min(least, self.maximum)
        return replace(self, minimum=least, scheduled=True) if least > self.minimum else self

    @property
    def awake(self) -> int:
        """Fewest workers while there is demand: one, where the pool may have any."""
        return min(max(1, self.minimum), self.maximum)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Bounds on prefill workers per decode worker."""

    minimum: float = 0.0
    maximum: float = float("inf")

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum:
            raise BadSettingsError(f"ratio.min {self.minimum} and ratio.max {self.maximum}: min must not exceed max")


@dataclass(frozen=True, slots=True)
class Handover:
    """Seconds between the end of prefill and the first token from the decode worker: KV transfer and one step."""

    base_s: float = 0.05
    per_token_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Method:
    """Constants of the method. One set for every fleet: nothing here is meant to be tuned per workload.

    Attributes:
        short_s, long_s: windows of the arrival rate; the larger rate counts.
        replay_s, replay_records: how much of the past is replayed.
        replay_every_s, replay_jump: a replay's result is scaled with the load for that long, or until the load has
            grown by that factor.
        replay_share: part of the miss budget that the replay may use up; the rest is margin.
        residency_s: window of completions that tells the residency.
        forecast_share: quantile of past forecast errors that a forecast is raised by.
        prefill_prior, decode_prior: factor on a forecast while too few errors are known.
        budget_share: part of the miss budget at which the outer loop is at rest.
        budget_gain: outer-loop speed, per second and unit of miss share.
        stale_s: newest bin older than this: hold.
        residual_limit: performance model off by more than this: no scale-down.
        gpu_backoff_s: workers pending that long for want of GPUs: ask for no more.
        gpu_ceiling_s: and believe for that long that there are no more.
    """

    short_s: int = 60
    long_s: int = 180
    replay_s: int = 600
    replay_records: int = 8000
    replay_every_s: float = 30.0
    replay_jump: float = 1.1
    replay_share: float = 0.5
    residency_s: int = 600
    forecast_share: float = 0.99
    prefill_prior: float = 1.25
    decode_prior: float = 1.15
    budget_share: float = 0.6
    budget_gain: float = 0.15
    stale_s: float = 30.0
    residual_limit: float = 0.25
    gpu_backoff_s: float = 60.0
    gpu_ceiling_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """One fleet.

    Attributes:
        gpu_budget: GPUs that both pools together may use.
        max_step: most workers added to or taken from a pool in one decision.
        scale_to_zero_after_s: idle time after which both pools go to zero; None: never.
        paused: decide, but keep what is.
        acts: what is decided is written; false while others decide on sizes.
    """

    objectives: Objectives
    performance: PerformanceModel
    prefill: PoolLimits
    decode: PoolLimits
    kv_capacity_tokens: int
    max_sequences: int
    handover: Handover = field(default_factory=Handover)
    ratio: Ratio = field(default_factory=Ratio)
    gpu_budget: int | None = None
    max_step: int | None = None
    scale_to_zero_after_s: float | None = None
    paused: bool = False
    acts: bool = True
    method: Method = field(default_factory=Method)

    def __post_init__(self) -> None:
        if self.kv_capacity_tokens < 1 or self.max_sequences < 1:
            raise BadSettingsError("kv_capacity_tokens and max_sequences must be at least 1: check performanceProfile")
        least = self.prefill.awake * self.prefill.gpus + self.decode.awake * self.decode.gpus
        if self.gpu_budget is not None and self.gpu_budget < least:
            raise BadSettingsError(
                f"autoscaling.gpuBudget is {self.gpu_budget}, but min needs {least}: raise it, or lower min"
            )
        if self.max_step is not None and self.max_step < 1:
            raise BadSettingsError(f"max_step is {self.max_step}: give at least 1, or leave it out")
