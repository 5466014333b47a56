"""The connector's settings: `kv_connector_extra_config`, checked once. Nothing secret is in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class SettingsError(ValueError):
    """A setting is missing or wrong; the message names it."""


class KvSettings(BaseModel):
    """Times in seconds. Fields that end in `_for_test` break things on purpose and default to off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transport: Literal["tcp", "nccl"] = "tcp"
    tls_dir: Path | None = None
    bind_host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    keys_dir: Path
    kv_revision: str = Field(min_length=1)
    fleet: str = Field(pattern=r"^[^/]+/[^/]+$")
    engine_id: str = Field(min_length=1)
    run_dir: Path
    lease_s: float = Field(default=30, gt=0)
    lease_wait_s: float = Field(default=2, gt=0)
    tombstone_s: float = Field(default=60, gt=0)
    chunk_bytes: int = Field(default=8 << 20, ge=64 << 10, le=256 << 20)
    nccl_slots: int = Field(default=4, ge=2, le=64)  # staging buffers of a chunk each, per GPU
    nccl_max_communicators: int = Field(default=32, ge=1, le=4096)  # 50 to 100 MB of GPU memory each
    nccl_idle_s: float = Field(default=300, gt=0)
    nccl_open_timeout_s: float = Field(default=15, gt=0)
    nccl_patience_s: float = Field(default=10, gt=0)  # for a call of libnccl; then the health check fails
    connect_timeout_s: float = Field(default=2, gt=0)
    handshake_timeout_s: float = Field(default=2, gt=0)
    chunk_timeout_s: float = Field(default=2, gt=0)
    chunk_floor_bytes_per_s: float = Field(default=50e6, gt=0)
    transfer_timeout_s: float = Field(default=60, gt=0)
    heartbeat_s: float = Field(default=1, gt=0)
    heartbeats_missed: int = Field(default=3, ge=1)
    idle_close_s: float = Field(default=60, gt=0)
    circuit_failures: int = Field(default=3, ge=1)
    circuit_cooldown_s: float = Field(default=10, gt=0)
    max_sessions: int = Field(default=256, ge=1)
    corrupt_for_test: bool = False
    chunk_delay_s_for_test: float = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if self.tls_dir is not None and self.transport != "tcp":
            raise ValueError(f"tls_dir needs transport tcp: what {self.transport} sends cannot be encrypted")
        return self

    @property
    def silence_s(self) -> float:
        """How long a peer may say nothing before it counts as dead."""
        return self.heartbeat_s * self.heartbeats_missed

    def local_socket(self, rank: int) -> Path:
        return self.run_dir / f"kv-{rank}.sock"


def read_settings(extra_config: Mapping[str, Any]) -> KvSettings:
    """Raises SettingsError naming each wrong field."""
    try:
        return KvSettings.model_validate(dict(extra_config))
    except ValidationError as error:
        faults = "; ".join(f"{_path(fault['loc'])}: {fault['msg']}" for fault in error.errors())
        raise SettingsError(f"kv_connector_extra_config: {faults}") from error


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "settings"
