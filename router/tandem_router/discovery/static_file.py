"""Discovery without Kubernetes: fleets and workers from a YAML or JSON file, read again when it changes."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from tandem_api import labels
from tandem_router.snapshot import (
    Continuation,
    FleetSpec,
    OnPrefillFailure,
    RegionSpec,
    RoleName,
    Snapshot,
    WorkerSpec,
)

LOG = logging.getLogger(__name__)
CHECK_INTERVAL_S = 1.0


class StaticFileError(Exception):
    """The file cannot be read or is wrong; the message names the field."""


class _Entry(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class StaticWorker(_Entry):
    """One engine."""

    name: str
    role: RoleName
    address: str
    http_port: int = labels.HTTP_PORT
    admin_port: int | None = Field(labels.ADMIN_PORT, description="null: an engine without tandem-worker.")
    kv_revision: str = "static"
    topology: str = Field("", description="Domain within which KV moves fast, such as a zone or a rack.")
    tls: bool = Field(False, description="The engine speaks HTTPS with a certificate of --upstream-ca.")


class StaticFleet(_Entry):
    """One model and its workers."""

    name: str
    served_name: str
    namespace: str = "default"
    uid: str | None = Field(None, description="Engine tokens are derived from it. Default: static-NAMESPACE-NAME.")
    token_file: str | None = None
    on_prefill_failure: OnPrefillFailure = "Retry"
    queue_timeout_seconds: Annotated[float | None, Field(ge=0)] = None
    request_timeout_seconds: Annotated[float, Field(gt=0)] = 1800.0
    continuation: Continuation = "Off"
    adapters: tuple[str, ...] = ()
    ttft_seconds: Annotated[float | None, Field(gt=0, description="Objective for the first token.")] = None
    tpot_seconds: Annotated[float | None, Field(gt=0, description="Objective for each further token.")] = None
    workers: tuple[StaticWorker, ...] = ()

    def to_spec(self) -> FleetSpec:
        """The form that all kinds of discovery bring."""
        return FleetSpec(
            namespace=self.namespace,
            name=self.name,
            uid=self.uid or f"static-{self.namespace}-{self.name}",
            served_name=self.served_name,
            has_prefill=any(worker.role == "prefill" for worker in self.workers),
            on_prefill_failure=self.on_prefill_failure,
            queue_timeout_s=self.queue_timeout_seconds,
            request_timeout_s=self.request_timeout_seconds,
            continuation=self.continuation,
            adapters=self.adapters,
            ttft_target_s=self.ttft_seconds,
            tpot_target_s=self.tpot_seconds,
            token_file=self.token_file,
            workers=tuple(self._worker_spec(worker) for worker in self.workers),
        )

    def _worker_spec(self, worker: StaticWorker) -> WorkerSpec:
        uid = f"{self.namespace}/{self.name}/{worker.name}@{worker.address}:{worker.http_port}"
        return WorkerSpec(uid=uid, **worker.model_dump())


class StaticRegion(_Entry):
    """One region: a peer, or this one itself. As the spec of an InferenceRegion."""

    name: str
    url: Annotated[str | None, Field(pattern=r"^https?://[^/@?#\s]+$")] = None
    labels: dict[str, str] = {}
    price_weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    drain: bool = False

    def to_spec(self) -> RegionSpec:
        """The form that all kinds of discovery bring."""
        return RegionSpec(self.name, self.url, tuple(sorted(self.labels.items())), self.price_weight, self.drain)


class StaticFile(_Entry):
    """The whole file."""

    fleets: tuple[StaticFleet, ...]
    regions: tuple[StaticRegion, ...] = ()


def load_static(path: Path) -> Snapshot:
    """Fleets from a file.

    Raises:
        StaticFileError: unreadable, not YAML, or a field is wrong.
    """
    try:
        parsed = StaticFile.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise StaticFileError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StaticFileError(f"{path}: {where or 'file'}: {first['msg']}") from error
    regions = tuple(region.to_spec() for region in parsed.regions)
    return Snapshot(tuple(fleet.to_spec() for fleet in parsed.fleets), regions)


async def watch_static(path: Path, publish: Callable[[Snapshot], None]) -> None:
    """Publish the file now and after each change; when a change is broken the fleets stay as they were.

    Raises:
        StaticFileError: the file is wrong at the start.
    """
    stamp = read_stamp(path)
    publish(load_static(path))
    while True:
        await asyncio.sleep(CHECK_INTERVAL_S)
        newest = read_stamp(path)
        if newest == stamp:
            continue
        stamp = newest
        try:
            publish(load_static(path))
        except StaticFileError as error:
            LOG.error("static file refused, fleets stay as they were: %s", error)


def read_stamp(path: Path) -> tuple[int, int] | None:
    """What changes when the file does; None while there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino
