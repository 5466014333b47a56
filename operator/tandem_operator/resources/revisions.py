"""Hashes that decide what may be paired, and what must be replaced.

They cover what the *user* wrote, without values equal to the schema's defaults: neither a new operator nor a new field
with a default changes the hash of an object that nobody touched.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from tandem_api.v1alpha1 import InferenceDeploymentSpec, Pool
from tandem_api.worker import Role
from tandem_operator.model import PoolRole

REVISION_LENGTH = 8
_SIZE_FIELDS = frozenset(("replicas", "min", "max"))
_PLANNING_FIELDS = frozenset(("performanceProfile", "performanceModel"))  # how fast a worker is, not what it is


def kv_revision(spec: InferenceDeploymentSpec) -> str:
    """Hash of all that makes KV incompatible. Only workers of equal kv-revision are paired.

    Tensor parallelism belongs to it as long as both roles must have the same.
    """
    cache = spec.engine.kv_cache
    return digest(
        {
            "model": [spec.model.name, spec.model.source, spec.model.revision],
            "engine": [spec.engine.type, spec.engine.image, spec.engine.attention_backend],
            "dtypes": [spec.engine.dtype, spec.engine.quantization, cache.dtype if cache else None],
            "block_size": cache.block_size if cache else None,
            "transfer": [spec.kv_transfer.connector, spec.decode.parallelism.tensor] if spec.prefill else None,
        }
    )


def template_revision(spec: InferenceDeploymentSpec, role: PoolRole) -> str:
    """Hash of every field of the spec that shapes the pods of one role; names their Deployment."""
    pool = pool_of(spec, role)
    return digest(
        {
            "kv": kv_revision(spec),
            "role": worker_role(spec, role),
            "model": _written(spec.model),
            "engine": {k: v for k, v in _written(spec.engine).items() if k not in _PLANNING_FIELDS},
            "pool": {k: v for k, v in _written(pool).items() if k not in _SIZE_FIELDS},
            "drain": _written(spec.drain),
        }
    )


def worker_role(spec: InferenceDeploymentSpec, role: PoolRole) -> Role:
    """What the workers of a pool do: decode alone serves both phases."""
    if role == "decode" and spec.prefill is None:
        return Role.MIXED
    return Role(role)


def pool_of(spec: InferenceDeploymentSpec, role: PoolRole) -> Pool:
    """The pool of a role that the spec asks for.

    Raises:
        ValueError: there is no prefill pool.
    """
    pool = spec.prefill if role == "prefill" else spec.decode
    if pool is None:
        raise ValueError("spec.prefill is not set")
    return pool


def digest(value: Any) -> str:
    """First 8 hex digits of SHA-256 over canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:REVISION_LENGTH]


def _written(part: BaseModel) -> dict[str, Any]:
    return part.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
