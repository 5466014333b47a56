"""The InferenceDeployment that a simulation runs: the same object that is applied to a cluster, with defaults for what
only mode Objectives needs (bounds of the pools, the performance profile)."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tandem_api.v1alpha1 import (
    InferenceDeployment,
    InferenceDeploymentSpec,
    Objective,
    Pool,
    TtftObjective,
)
from tandem_api.v1alpha1 import Objectives as WrittenObjectives
from tandem_core.profiles import Profile, UnknownProfileError
from tandem_core.targets import Objectives
from tandem_operator.autoscale.configure import (
    count_slots,
    read_limits,
    read_objectives,
    read_profile,
    read_ratio,
)
from tandem_operator.autoscale.settings import BadSettingsError, PoolLimits, Ratio
from tandem_simulator.conditions import Sizes
from tandem_simulator.errors import FleetError

DEFAULT_MAX = 256


class SimulatedObjectives(WrittenObjectives):
    """Both are needed: attainment is defined by them."""

    ttft: TtftObjective
    tpot: Objective


class SimulatedSpec(InferenceDeploymentSpec):
    """The spec, with what the simulation needs made compulsory."""

    prefill: Pool
    objectives: SimulatedObjectives


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
    return FleetSpec(
        name=str(found.metadata.get("name", path_safe(spec.served_name))),
        profile=read_profile(spec, profile or _guess_profile(spec, gpu)),
        objectives=read_objectives(spec.objectives),
        replicas=Sizes(_first_size(spec.prefill), _first_size(spec.decode)),
        prefill=_limits("spec.prefill", spec.prefill),
        decode=_limits("spec.decode", spec.decode),
        ratio=read_ratio(spec.autoscaling.ratio),
        gpu_budget=spec.autoscaling.gpu_budget,
        max_sequences=count_slots(spec),
        drain_s=float(spec.drain.timeout_seconds),
    )


def path_safe(name: str) -> str:
    """A name without slashes."""
    return name.replace("/", "-")


def _first_size(pool: Pool) -> int:
    return pool.min if pool.replicas is None else pool.replicas


def _guess_profile(spec: SimulatedSpec, gpu: str) -> str | None:
    """Where the spec says nothing: from the size in the model's name (`…-70B-…`) and the tensor parallelism."""
    if spec.engine.performance_profile is not None or spec.engine.performance_model is not None:
        return None
    size = re.search(r"(?<![\d.])(\d+)b\b", spec.model.name.lower())
    if size is None:
        raise FleetError(
            f"spec.model.name {spec.model.name!r} tells no size: set spec.engine.performanceProfile, or --profile"
        )
    return f"{size[1]}b-{gpu}-tp{spec.decode.parallelism.tensor}"


def _limits(path: str, pool: Pool) -> PoolLimits:
    limits = read_limits(path, pool)
    return limits if pool.max is not None else replace(limits, maximum=max(DEFAULT_MAX, limits.minimum))
