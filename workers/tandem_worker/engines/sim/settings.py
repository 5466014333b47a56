"""Settings of the sim engine, given as engine arguments: `--sim-speed=10 --sim-kv-tokens=65536`."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem_api.conditions import Reason
from tandem_worker.errors import WorkerError

PREFIX = "--sim-"


class SimSettings(BaseModel):
    """Defaults resemble an 8B model on one H100: 2,000 tokens of prefill in about 90 ms, 8 ms per token at batch 1.

    Times are in milliseconds of modelled time; `speed` says how many of them pass in one real millisecond.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    speed: float = Field(default=1.0, gt=0)
    start_ms: float = Field(default=0.0, ge=0, description="how long the engine takes to become healthy")
    prefill_base_ms: float = Field(default=8.0, ge=0, description="p0")
    prefill_token_ms: float = Field(default=0.04, ge=0, description="p1")
    prefill_square_ms: float = Field(default=1e-7, ge=0, description="p2")
    decode_base_ms: float = Field(default=7.0, ge=0, description="d0")
    decode_sequence_ms: float = Field(default=0.05, ge=0, description="d1")
    decode_context_ms: float = Field(default=2e-5, ge=0, description="d2")
    kv_tokens: int = Field(default=400_000, ge=16, description="capacity of the KV cache")
    kv_token_bytes: int = Field(default=131_072, ge=1, description="KV bytes of one token over all layers")
    kv_bytes_per_ms: float = Field(default=10e6, gt=0, description="speed of a transfer")
    step_tokens: int = Field(default=8192, ge=1, description="tokens in one step, where the configuration says nothing")
    max_model_len: int = Field(default=131_072, ge=2, description="where the configuration says nothing")
    default_max_tokens: int = Field(default=256, ge=1, description="tokens of an answer whose request names no number")


def read_sim_settings(extra_args: Sequence[str]) -> SimSettings:
    """Read `--sim-NAME=VALUE` arguments.

    Raises:
        WorkerError: InvalidSpec, naming the argument.
    """
    try:
        return SimSettings.model_validate(dict(map(_split, extra_args)))
    except ValidationError as error:
        faults = "; ".join(f"{_argument(fault['loc'])}: {fault['msg']}" for fault in error.errors())
        raise WorkerError(Reason.INVALID_SPEC, f"spec.engine.extraArgs of engine sim: {faults}") from error


def _split(argument: str) -> tuple[str, str]:
    name, equals, value = argument.partition("=")
    if not argument.startswith(PREFIX) or not equals:
        raise WorkerError(
            Reason.INVALID_SPEC, f"spec.engine.extraArgs: engine sim takes {PREFIX}NAME=VALUE only, not {argument!r}"
        )
    return name.removeprefix(PREFIX).replace("-", "_"), value


def _argument(location: tuple[int | str, ...]) -> str:
    return PREFIX + ".".join(map(str, location)).replace("_", "-")
