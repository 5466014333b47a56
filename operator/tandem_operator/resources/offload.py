"""Where a pod keeps the KV that its engine's cache has no room for: `kvCache.offload`, of the engine or of a role."""

from collections.abc import Iterator
from typing import Any

from tandem_api.v1alpha1 import InferenceDeploymentSpec, KVOffload, Pool
from tandem_api.worker import OFFLOAD_DIR, KVOffloadConfig
from tandem_operator.model import Problem
from tandem_operator.quantities import parse_quantity

VOLUME = "kv"
_SLACK = 1.1  # the worker deletes some seconds after too much was written; the kubelet must not evict it first


def find_offload(spec: InferenceDeploymentSpec, pool: Pool) -> KVOffload | None:
    """What is written for the pool, else for the engine."""
    own = pool.engine_overrides.kv_cache if pool.engine_overrides else None
    common = spec.engine.kv_cache
    return (own.offload if own else None) or (common.offload if common else None)


def build_offload_config(offload: KVOffload | None) -> KVOffloadConfig | None:
    """What the worker is told."""
    if offload is None:
        return None
    return KVOffloadConfig(
        memory_bytes=int(parse_quantity(offload.memory)),
        disk_dir=OFFLOAD_DIR if offload.disk else None,
        disk_bytes=int(parse_quantity(offload.disk)) if offload.disk else None,
    )


def build_shared_memory_limit(shared_memory: str, offload: KVOffload | None) -> str:
    """vLLM maps its host memory there, beside what ranks exchange."""
    if offload is None:
        return shared_memory
    return str(int(parse_quantity(shared_memory) + parse_quantity(offload.memory)))


def build_offload_volumes(offload: KVOffload | None) -> list[dict[str, Any]]:
    """Room on the node's own disk, gone with the pod."""
    if offload is None or offload.disk is None:
        return []
    return [{"name": VOLUME, "emptyDir": {"sizeLimit": str(int(float(parse_quantity(offload.disk)) * _SLACK))}}]


def find_offload_problems(spec: InferenceDeploymentSpec, path: str, pool: Pool) -> Iterator[Problem]:
    """What admission cannot compare."""
    offload = find_offload(spec, pool)
    if offload is None:
        return
    if spec.engine.type == "sim":
        yield Problem("spec.engine.kvCache.offload", "engine sim keeps no KV that could be offloaded; remove it")
    room, limit = parse_quantity(offload.memory), pool.resources.memory
    if limit and room >= parse_quantity(limit):
        yield Problem(
            f"{path}.resources.memory",
            f"{limit} does not hold kvCache.offload.memory {offload.memory} and the engine; raise it",
        )
