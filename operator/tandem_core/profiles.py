"""Shipped performance profiles: what a worker can do before the fleet has measured itself.

Kernel sums of measured vLLM operations (GEMM, attention, all-reduce; bf16; H100 and H200 vLLM 0.24, A100 vLLM 0.14),
times the factors from kernels to end to end. Median error of the fit 1-3 %, 95th percentile 6-15 %.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tandem_core.performance import PerformanceModel

PREFILL_END_TO_END = 1.33
DECODE_END_TO_END = 1.15
USABLE_MEMORY = 0.9
GPU_MEMORY_BYTES = MappingProxyType({"a100": 80e9, "h100": 80e9, "h200": 141e9})


@dataclass(frozen=True, slots=True)
class Profile:
    """One worker of a model on some GPUs.

    Attributes:
        performance: its speed.
        gpus: GPUs of one worker.
        kv_bytes_per_token: bytes of KV cache per token, all layers.
        kv_capacity_tokens: tokens that fit beside the weights.
    """

    name: str
    performance: PerformanceModel
    gpus: int
    kv_bytes_per_token: int
    kv_capacity_tokens: int


class UnknownProfileError(ValueError):
    """No profile has that name; the message lists those that exist."""


@dataclass(frozen=True, slots=True)
class _Weights:
    bytes: float
    kv_bytes_per_token: int


_MODELS = {"8b": _Weights(16e9, 131_072), "70b": _Weights(141e9, 327_680)}

# model, GPU, tensor parallelism: p0, p1, p2, d0, d1, d2 (kernel milliseconds)
_KERNELS = {
    ("8b", "a100", 1): (7.00, 0.05126, 1.33e-6, 11.23, 0.0326, 7.89e-5),
    ("8b", "h100", 1): (4.10, 0.01439, 7.3e-7, 6.06, 0.0094, 4.26e-5),
    ("8b", "h200", 1): (2.70, 0.01563, 6.9e-7, 4.57, 0.0113, 3.00e-5),
    ("70b", "a100", 4): (18.35, 0.16942, 1.1e-7, 26.88, 0.1400, 5.04e-5),
    ("70b", "h100", 4): (10.01, 0.06189, 1.0e-6, 14.32, 0.0460, 2.65e-5),
    ("70b", "h100", 8): (6.96, 0.04396, 2.0e-7, 9.24, 0.0348, 1.35e-5),
    ("70b", "h200", 4): (7.41, 0.06239, 1.2e-6, 11.37, 0.0479, 1.74e-5),
    ("70b", "h200", 8): (5.60, 0.04348, 3.3e-7, 7.44, 0.0364, 9.7e-6),
}


def _build(model: str, gpu: str, tensor: int, kernels: tuple[float, float, float, float, float, float]) -> Profile:
    weights = _MODELS[model]
    free_bytes = USABLE_MEMORY * tensor * GPU_MEMORY_BYTES[gpu] - weights.bytes
    return Profile(
        name=f"{model}-{gpu}-tp{tensor}",
        performance=PerformanceModel(*kernels).scaled(PREFILL_END_TO_END, DECODE_END_TO_END),
        gpus=tensor,
        kv_bytes_per_token=weights.kv_bytes_per_token,
        kv_capacity_tokens=int(free_bytes / weights.kv_bytes_per_token),
    )


def _build_all() -> Mapping[str, Profile]:
    built = (_build(*key, kernels) for key, kernels in _KERNELS.items())
    return MappingProxyType({profile.name: profile for profile in built})


PROFILES = _build_all()


def find_profile(name: str) -> Profile:
    """The shipped profile of that name, such as `70b-h100-tp4`.

    Raises:
        UnknownProfileError: there is none.
    """
    try:
        return PROFILES[name.lower()]
    except KeyError:
        known = ", ".join(sorted(PROFILES))
        raise UnknownProfileError(f"no performance profile is named {name!r}: use one of {known}") from None
