"""Fleets for tests."""

from __future__ import annotations

from typing import Any

from tandem_api.v1alpha1 import InferenceDeploymentSpec, InferenceDeploymentStatus
from tandem_operator.model import Defaults, Fleet, FleetKeys, Key

DEFAULTS = Defaults(
    engine_image="vllm:v1", worker_image="worker:v1", router_namespace="tandem-system", endpoint="http://tandem/v1"
)
KEYS = FleetKeys({"engine.key": "engine", "kv.key": "kv", "kid": "k1"})


def make_spec(**changes: Any) -> InferenceDeploymentSpec:
    """A small valid spec in wire form, with top-level parts replaced (None removes one)."""
    wire: dict[str, Any] = {
        "model": {"name": "org/model"},
        "engine": {"kvCache": {"blockSize": 32}},
        "prefill": {"replicas": 1},
        "decode": {"replicas": 2},
    }
    wire = {name: value for name, value in {**wire, **changes}.items() if value is not None}
    return InferenceDeploymentSpec.model_validate(wire)


def make_fleet(
    spec: InferenceDeploymentSpec | None = None,
    *,
    generation: int = 1,
    status: InferenceDeploymentStatus | None = None,
    name: str = "llama",
) -> Fleet:
    """A fleet of the namespace `team`."""
    return Fleet(Key("team", name), "uid-fleet", generation, spec or make_spec(), status or InferenceDeploymentStatus())
