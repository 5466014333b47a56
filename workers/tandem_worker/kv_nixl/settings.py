"""What our side of the NIXL connector is told: the `tandem` object in `kv_connector_extra_config`. No secret in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem_worker.kv.settings import SettingsError

KEY = "tandem"


class NixlSettings(BaseModel):
    """Times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fleet: str = Field(pattern=r"^[^/]+/[^/]+$")
    keys_dir: Path
    run_dir: Path
    lease_s: float = Field(gt=0)
    tombstone_s: float = Field(default=60, gt=0)
    circuit_failures: int = Field(default=3, ge=1)
    circuit_cooldown_s: float = Field(default=10, gt=0)

    def local_socket(self, rank: int) -> Path:
        return self.run_dir / f"kv-{rank}.sock"


def read_settings(extra_config: Mapping[str, Any]) -> NixlSettings:
    """Raises SettingsError naming each wrong field."""
    try:
        return NixlSettings.model_validate(extra_config.get(KEY))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, (KEY, *fault['loc'])))}: {fault['msg']}" for fault in error.errors())
        raise SettingsError(f"kv_connector_extra_config: {faults}") from error
