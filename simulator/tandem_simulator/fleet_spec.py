"""The InferenceDeployment that a simulation runs: the same object that is applied to a cluster.

Fields that the CRD of this release does not have yet (min, max, isolatedFactor, gpuBudget, ratio, performanceProfile)
are read from the same places of the file where DESIGN §4 puts them.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from tandem_api.schema import Resource
from tandem_api.v1alpha1 import Autoscaling, Engine, InferenceDeployment, InferenceDeploymentSpec, Objective, Pool
from tandem_core.profiles import Profile, UnknownProfileError, find_profile
from tandem_core.targets import PERCENTILES, Objectives
from tandem_operator.autoscale.settings import BadSettingsError, PoolLimits, Ratio
from tandem_simulator.conditions import Sizes
from tandem_simulator.errors import FleetError

DEFAULT_MAX = 256
DEFAULT_SLOTS = 256
DEFAULT_ISOLATED_FACTOR = 3.0


class SimulatedPool(Pool):
    """A pool with bounds."""

    min: Annotated[int, Field(ge=0, le=10_000)] = 1
    max: Annotated[int, Field(ge=0, le=10_000)] = DEFAULT_MAX


class SimulatedEngine(Engine):
    """An engine with a named performance profile."""

    performance_profile: Annotated[str | None, Field(max_length=63)] = None


class TtftObjective(Objective):
    """A TTFT objective that long prompts may stretch."""

    isolated_factor: Annotated[float, Field(ge=0, le=1000)] = DEFAULT_ISOLATED_FACTOR


class SimulatedObjectives(Resource):
    """Both are needed: attainment is defined by them."""

    ttft: TtftObjective
    tpot: Objective


class RatioBounds(Resource):
    """Prefill workers per decode worker."""

    min: Annotated[float, Field(ge=0)] = 0.0
    max: Annotated[float, Field(ge=0)] = float("inf")


class SimulatedAutoscaling(Autoscaling):
    """Limits of both pools together."""

    gpu_budget: Annotated[int | None, Field(ge=0)] = None
    ratio: RatioBounds = RatioBounds()


class SimulatedSpec(InferenceDeploymentSpec):
    """The spec, with what the simulation needs made compulsory."""

    engine: SimulatedEngine = SimulatedEngine()
    prefill: SimulatedPool
    decode: SimulatedPool
    objectives: SimulatedObjectives  # type: ignore[assignment]  # stricter than the CRD, on purpose
    autoscaling: SimulatedAutoscaling = SimulatedAutoscaling()


class SimulatedDeployment(InferenceDeployment):
    """The whole object."""

    spec: SimulatedSpec


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """What the simulation takes from the object."""

    name: str
    profile: Profile
    objectives: Objectives
    replicas: Sizes
    prefill: PoolLimits
    decode: PoolLimits
    ratio: Ratio
    gpu_budget: int | None
    max_sequences: int
    drain_s: float


def read_fleet(path: Path, gpu: str, profile: str | None) -> FleetSpec:
    """Read the first InferenceDeployment of a YAML file.

    Args:
        gpu: GPU of the profile when the object names none, such as `h100`.
        profile: overrides `engine.performanceProfile`.

    Raises:
        FleetError: missing file, no such object, a wrong field, or no profile for it; names the field.
    """
    try:
        found = SimulatedDeployment.model_validate(_load(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise FleetError(f"--fleet {path}: {field}: {first['msg']}{_hint(field)}") from None
    try:
        return _build(found, gpu, profile)
    except (FleetError, BadSettingsError, UnknownProfileError, ValueError) as error:
        raise FleetError(f"--fleet {path}: {error}") from None


def _load(path: Path) -> Any:
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise FleetError(f"--fleet {path}: no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FleetError(f"--fleet {path}: cannot be read ({error})") from None
    for one in documents:
        if isinstance(one, dict) and one.get("kind") == "InferenceDeployment":
            return one
    raise FleetError(f"--fleet {path}: holds no object of kind InferenceDeployment")


def _hint(field: str) -> str:
    if "objectives" in field:
        return "; attainment is measured against spec.objectives.ttft.seconds and spec.objectives.tpot.seconds"
    if field.endswith("prefill"):
        return "; the simulator runs disaggregated fleets, add spec.prefill"
    return ""


def _build(found: SimulatedDeployment, gpu: str, profile: str | None) -> FleetSpec:
    spec = found.spec
    chosen = find_profile(profile or spec.engine.performance_profile or _guess_profile(spec, gpu))
    ratio = spec.autoscaling.ratio
    return FleetSpec(
        name=str(found.metadata.get("name", path_safe(spec.served_name))),
        profile=_with_batching(chosen, spec),
        objectives=_objectives(spec.objectives),
        replicas=Sizes(spec.prefill.replicas, spec.decode.replicas),
        prefill=_limits("prefill", spec.prefill),
        decode=_limits("decode", spec.decode),
        ratio=Ratio(ratio.min, ratio.max),
        gpu_budget=spec.autoscaling.gpu_budget,
        max_sequences=_slots(spec),
        drain_s=float(spec.drain.timeout_seconds),
    )


def path_safe(name: str) -> str:
    """A name without slashes."""
    return name.replace("/", "-")


def _guess_profile(spec: SimulatedSpec, gpu: str) -> str:
    """From the size in the model's name (`…-70B-…`) and the tensor parallelism."""
    size = re.search(r"(?<![\d.])(\d+)b\b", spec.model.name.lower())
    if size is None:
        raise FleetError(
            f"spec.model.name {spec.model.name!r} tells no size: set spec.engine.performanceProfile, or --profile"
        )
    return f"{size[1]}b-{gpu}-tp{spec.decode.parallelism.tensor}"


def _with_batching(profile: Profile, spec: SimulatedSpec) -> Profile:
    batching = _batching(spec, spec.prefill)
    if batching is None:
        return profile
    return replace(profile, performance=replace(profile.performance, step_tokens=batching))


def _batching(spec: SimulatedSpec, pool: Pool) -> int | None:
    for settings in (pool.engine_overrides, spec.engine):
        if settings is not None and settings.batching is not None and settings.batching.max_num_batched_tokens:
            return settings.batching.max_num_batched_tokens
    return None


def _slots(spec: SimulatedSpec) -> int:
    for settings in (spec.decode.engine_overrides, spec.engine):
        if settings is not None and settings.batching is not None and settings.batching.max_num_seqs:
            return settings.batching.max_num_seqs
    return DEFAULT_SLOTS


def _objectives(given: SimulatedObjectives) -> Objectives:
    return Objectives(
        ttft_s=given.ttft.seconds,
        tpot_s=given.tpot.seconds,
        ttft_share=PERCENTILES[given.ttft.percentile],
        tpot_share=PERCENTILES[given.tpot.percentile],
        isolated_factor=given.ttft.isolated_factor,
    )


def _limits(role: str, pool: SimulatedPool) -> PoolLimits:
    gpus = pool.resources.gpu
    gpus = pool.parallelism.tensor * pool.parallelism.pipeline if gpus is None else gpus
    try:
        return PoolLimits(gpus, pool.min, pool.max)
    except BadSettingsError as error:
        raise FleetError(f"spec.{role}: {error}") from None
