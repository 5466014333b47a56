"""What this region runs of a fleet: the same manifest lies in every cluster, each operator takes its slice. Pure."""

from collections.abc import Iterator

from tandem_api.v1alpha1 import InferenceDeploymentSpec, Pool, RegionPool, RegionSlice
from tandem_operator.model import Problem

_OF_ENGINE = ("performance_profile", "performance_model")


def is_served_in(spec: InferenceDeploymentSpec, region: str) -> bool:
    """Whether a region runs workers of the fleet: it is listed, or there is no list.

    An installation without a name (`region` empty) cannot know, and does not take it for a no: what serves stays.
    """
    return not spec.regions or not region or any(one.name == region for one in spec.regions)


def take_slice(spec: InferenceDeploymentSpec, region: str) -> InferenceDeploymentSpec:
    """The spec as `region` runs it. It lists no regions any more, unless `region` is empty: then it is as it was."""
    if not region or not spec.regions:
        return spec
    own = next((one for one in spec.regions if one.name == region), None)
    if own is None:
        return spec.model_copy(update={"regions": []})
    return spec.model_copy(
        update={
            "regions": [],
            "prefill": _slice_pool(spec.prefill, own.prefill) if spec.prefill else None,
            "decode": _slice_pool(spec.decode, own.decode),
            **_slice_scaling(spec, own),
        }
    )


def find_slice_problems(spec: InferenceDeploymentSpec) -> Iterator[Problem]:
    """What admission judges of the manifest, judged again of the slice."""
    if spec.regions:
        names = ", ".join(one.name for one in spec.regions)
        text = f"this installation has no name, and is perhaps not one of {names}: set region.name of its chart"
        yield Problem("spec.regions", text)
    pools = {"spec.prefill": spec.prefill, "spec.decode": spec.decode}
    for path, pool in pools.items():
        if pool is not None and pool.max is not None and pool.min > pool.max:
            text = f"{pool.min} is above max {pool.max} in this region: change it there or in spec.regions"
            yield Problem(f"{path}.min", text)
    if spec.prefill is not None:
        yield from _find_pairing_problems(spec.prefill, spec.decode)


def _find_pairing_problems(prefill: Pool, decode: Pool) -> Iterator[Problem]:
    tensors = prefill.parallelism.tensor, decode.parallelism.tensor
    if max(tensors) % min(tensors):
        text = f"{tensors[0]} does not divide decode's {tensors[1]} in this region, nor the other way: see spec.regions"
        yield Problem("spec.prefill.parallelism.tensor", text)
    for path, pool in (("spec.prefill", prefill), ("spec.decode", decode)):
        shape = pool.parallelism
        if pool.nodes * shape.pipeline * shape.data * shape.context > 1:
            text = "nodes, pipeline, data and context must be 1 when KV is handed over: see spec.regions"
            yield Problem(f"{path}.parallelism", text)


def _slice_pool(pool: Pool, own: RegionPool | None) -> Pool:
    if own is None:
        return pool
    said = {name: value for name in RegionPool.model_fields if (value := getattr(own, name)) is not None}
    return pool.model_copy(update=said)


def _slice_scaling(spec: InferenceDeploymentSpec, own: RegionSlice) -> dict[str, object]:
    """The region's GPU budget, and how fast its workers are. A model in the slice takes the place of a profile."""
    said: dict[str, object] = {}
    if own.gpu_budget is not None:
        said["autoscaling"] = spec.autoscaling.model_copy(update={"gpu_budget": own.gpu_budget})
    if own.performance_profile is not None or own.performance_model is not None:
        speed = {name: getattr(own, name) for name in _OF_ENGINE}
        said["engine"] = spec.engine.model_copy(update=speed)
    return said
