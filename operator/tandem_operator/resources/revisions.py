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

    Tensor parallelism is not in it: admission and the handshake of two workers judge which ratios fit. Arguments
    without a field are: nobody knows what they do to KV.
    """
    cache = spec.engine.kv_cache
    return digest(
        {
            **_written_if_any("adapters", [_written(adapter) for adapter in spec.model.adapters]),
            **_written_if_any("speculative", _kv_of_speculation(spec)),
            **_written_if_any("extra_args", spec.engine.extra_args),
            "model": [spec.model.name, spec.model.source, spec.model.revision],
            "engine": [spec.engine.type, spec.engine.image, spec.engine.attention_backend],
            "dtypes": [spec.engine.dtype, spec.engine.quantization, cache.dtype if cache else None],
            "block_size": cache.block_size if cache else None,
            "transfer": [spec.kv_transfer.connector] if spec.prefill else None,
            **_written_if_any("kv_tls", bool(spec.prefill and spec.kv_transfer.tls)),
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
            **_written_if_any("locality", _written(spec.kv_transfer).get("locality")),
            **_written_if_any("kv_tls", _written(spec.kv_transfer).get("tls") if spec.prefill else None),
        }
    )


def _kv_of_speculation(spec: InferenceDeploymentSpec) -> dict[str, Any]:
    """Drafts keep KV in the same cache; n-grams keep none."""
    guess = spec.engine.speculative
    return {} if guess is None or guess.method == "ngram" else _written(guess)


def _written_if_any(name: str, value: Any) -> dict[str, Any]:
    """An entry of a hash that is only there when the user wrote it: new fields leave old hashes as they were."""
    return {name: value} if value else {}


def fleet_revision(spec: InferenceDeploymentSpec) -> str:
    """Hash of the templates of all roles: what a rollout brings, keeps and goes back to as one."""
    roles: tuple[PoolRole, ...] = ("decode",) if spec.prefill is None else ("prefill", "decode")
    return digest({role: template_revision(spec, role) for role in roles})


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
