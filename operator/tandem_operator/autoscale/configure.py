"""From the fields of an InferenceDeployment to what the autoscaler is told."""

from dataclasses import replace
from datetime import datetime

from tandem_api.v1alpha1 import (
    Autoscaling,
    Engine,
    EnginePerformance,
    InferenceDeploymentSpec,
    Objectives,
    Pool,
    RatioBounds,
)
from tandem_core import targets
from tandem_core.performance import PerformanceModel
from tandem_core.profiles import Profile, find_profile
from tandem_operator.autoscale.schedules import find_minima
from tandem_operator.autoscale.settings import BadSettingsError, Handover, PoolLimits, Ratio, Settings

DEFAULT_SLOTS = 256  # vLLM's max_num_seqs where nothing is said
DEFAULT_MAX = 10_000
_KV_BYTES_PER_TOKEN = 131_072  # of an 8B model; only the transfer time of an inline model depends on it
_TRANSFER_BASE_S = 0.005
_TRANSFER_BYTES_PER_S = 20e9


def is_watched(spec: InferenceDeploymentSpec) -> bool:
    """Whether latency is to be judged, in whatever mode."""
    objectives = spec.objectives
    return objectives is not None and (objectives.ttft is not None or objectives.tpot is not None)


def is_decided(spec: InferenceDeploymentSpec) -> bool:
    """Whether sizes are to be decided, if only for show. Admission has seen to it that they can be."""
    return is_watched(spec) and (spec.autoscaling.mode == "Objectives" or spec.autoscaling.advisory)


def may_act(spec: InferenceDeploymentSpec) -> bool:
    """Whether the autoscaler may write what it decides."""
    return is_decided(spec) and spec.autoscaling.mode == "Objectives" and not spec.autoscaling.advisory


def build_settings(spec: InferenceDeploymentSpec, now: datetime, believed: PerformanceModel | None = None) -> Settings:
    """What the autoscaler is told of a fleet at `now` (schedules depend on it).

    Args:
        believed: the refitted model; None: as shipped.

    Raises:
        BadSettingsError, UnknownProfileError, UnknownTimeZoneError: naming the field.
    """
    if spec.prefill is None or spec.objectives is None:
        raise BadSettingsError("spec.prefill and spec.objectives: both are needed to decide sizes")
    profile = read_profile(spec)
    model = believed or profile.performance
    autoscaling = spec.autoscaling
    prefill_min, decode_min = find_minima(autoscaling.schedules, now)
    prefill = read_limits("spec.prefill", spec.prefill).with_scheduled(prefill_min)
    decode = read_limits("spec.decode", spec.decode).with_scheduled(decode_min)
    slots = count_slots(spec)
    return Settings(
        objectives=read_objectives(spec.objectives),
        performance=model,
        prefill=prefill,
        decode=decode,
        kv_capacity_tokens=profile.kv_capacity_tokens,
        max_sequences=slots,
        handover=build_handover(model, slots, profile),
        ratio=read_ratio(autoscaling.ratio),
        gpu_budget=autoscaling.gpu_budget,
        scale_to_zero_after_s=_idle_s(autoscaling, prefill_min, decode_min),
        paused=autoscaling.paused,
        acts=may_act(spec),
    )


def _idle_s(autoscaling: Autoscaling, prefill_min: int, decode_min: int) -> float | None:
    """A schedule that wants workers wants them also when nobody asks."""
    return None if prefill_min or decode_min else autoscaling.scale_to_zero_after_seconds


def read_profile(spec: InferenceDeploymentSpec, name: str | None = None) -> Profile:
    """Speed and room of one worker. `name` goes before what the spec says.

    Raises:
        UnknownProfileError: no profile has that name.
        BadSettingsError: the spec says neither profile nor model.
    """
    engine = spec.engine
    if name is None and engine.performance_model is not None:
        found = _inline(engine.performance_model, spec.decode.parallelism.tensor)
    else:
        found = find_profile(name or engine.performance_profile or _missing())
    step_tokens = _find_batching(engine, spec.prefill, "max_num_batched_tokens")
    if step_tokens is None:
        return found
    return replace(found, performance=replace(found.performance, step_tokens=step_tokens))


def _missing() -> str:
    raise BadSettingsError("spec.engine.performanceProfile: set it, or spec.engine.performanceModel")


def _inline(given: EnginePerformance, gpus: int) -> Profile:
    model = PerformanceModel(given.p0_ms, given.p1_ms, given.p2_ms, given.d0_ms, given.d1_ms, given.d2_ms)
    return Profile("inline", model, gpus, _KV_BYTES_PER_TOKEN, given.kv_capacity_tokens)


def read_objectives(given: Objectives) -> targets.Objectives:
    """Both objectives as numbers.

    Raises:
        BadSettingsError: one is missing.
    """
    if given.ttft is None or given.tpot is None:
        raise BadSettingsError("spec.objectives: set ttft.seconds and tpot.seconds")
    return targets.Objectives(
        ttft_s=given.ttft.seconds,
        tpot_s=given.tpot.seconds,
        ttft_share=targets.PERCENTILES[given.ttft.percentile],
        tpot_share=targets.PERCENTILES[given.tpot.percentile],
        isolated_factor=given.ttft.isolated_factor,
    )


def read_limits(path: str, pool: Pool) -> PoolLimits:
    """Bounds and shape of one pool.

    Raises:
        BadSettingsError: naming the pool.
    """
    gpus = pool.resources.gpu
    gpus = pool.parallelism.ranks if gpus is None else gpus
    try:
        return PoolLimits(gpus, pool.min, DEFAULT_MAX if pool.max is None else pool.max)
    except BadSettingsError as error:
        raise BadSettingsError(f"{path}: {error}") from None


def read_ratio(given: RatioBounds | None) -> Ratio:
    """Prefill workers per decode worker."""
    if given is None:
        return Ratio()
    return Ratio(given.min, float("inf") if given.max is None else given.max)


def count_slots(spec: InferenceDeploymentSpec) -> int:
    """Sequences that one decode worker runs at once."""
    return _find_batching(spec.engine, spec.decode, "max_num_seqs") or DEFAULT_SLOTS


def build_handover(model: PerformanceModel, slots: int, profile: Profile) -> Handover:
    """From the end of prefill to the first token: the transfer, and one step of a half-full decode worker."""
    step_s = model.decode_step_s(slots / 2, profile.kv_capacity_tokens / 2)
    return Handover(_TRANSFER_BASE_S + step_s, profile.kv_bytes_per_token / _TRANSFER_BYTES_PER_S)


def _find_batching(engine: Engine, pool: Pool | None, name: str) -> int | None:
    """A batching limit: that of the role, else that of both."""
    for settings in (pool.engine_overrides if pool else None, engine):
        if settings is not None and settings.batching is not None:
            value: int | None = getattr(settings.batching, name)
            if value is not None:
                return value
    return None
