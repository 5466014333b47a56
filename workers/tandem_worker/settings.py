"""All that a worker knows: its configuration and its place, read once from the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from pydantic import ValidationError

from tandem_api.conditions import Reason
from tandem_api.worker import CONFIG_ENV, KEYS_DIR, MODEL_DIR, RUN_DIR, Role, WorkerConfig
from tandem_worker.errors import WorkerError
from tandem_worker.group import Place, read_place

POD_IP_ENV = "POD_IP"
KEYS_DIR_ENV = "TANDEM_KEYS_DIR"
RUN_DIR_ENV = "TANDEM_RUN_DIR"
DATA_DIR_ENV = "TANDEM_DATA_DIR"
TERMINATION_LOG_ENV = "TANDEM_TERMINATION_LOG"

ANY_ADDRESS = "::"
TERMINATION_LOG = "/dev/termination-log"  # Kubernetes' default terminationMessagePath
UNIX_SOCKET_PATH_BYTES = 100  # the kernel takes 107; the longest name that we put below run_dir is 7


@dataclass(frozen=True)
class Settings:
    """A worker's configuration, the address that it binds, and the directories that it may use."""

    config: WorkerConfig
    pod_ip: str
    keys_dir: Path
    run_dir: Path
    data_dir: Path
    place: Place | None = None  # of a worker that spans nodes

    @property
    def ranks(self) -> int:
        """Processes of the engine that hold KV and may hand it over; 0 in a pool that hands nothing over."""
        return self.config.engine.tensor_parallel if self.config.kv_transfer else 0


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Check the environment that the operator rendered.

    Raises:
        WorkerError: InvalidSpec, naming the variable or field and the fix.
    """
    config = _read_config(environ)
    settings = Settings(
        config=config,
        pod_ip=_read_address(environ.get(POD_IP_ENV) or ANY_ADDRESS),
        keys_dir=Path(environ.get(KEYS_DIR_ENV) or KEYS_DIR),
        run_dir=Path(environ.get(RUN_DIR_ENV) or RUN_DIR),
        data_dir=Path(environ.get(DATA_DIR_ENV) or MODEL_DIR),
        place=read_place(environ, config.engine.nodes),
    )
    if len(str(settings.run_dir)) > UNIX_SOCKET_PATH_BYTES - len("/kv-0.sock"):
        raise _invalid(f"{RUN_DIR_ENV}={settings.run_dir} is too long for a unix socket: use a shorter path")
    return settings


def _read_config(environ: Mapping[str, str]) -> WorkerConfig:
    text = environ.get(CONFIG_ENV)
    if not text:
        raise _invalid(f"{CONFIG_ENV} is not set: start workers through an InferenceDeployment, or set it to JSON")
    try:
        config = WorkerConfig.model_validate_json(text)
    except ValidationError as error:
        raise _invalid(f"{CONFIG_ENV}: {_describe(error)}") from error
    _check_roles(config)
    return config


def _check_roles(config: WorkerConfig) -> None:
    if config.role is not Role.MIXED and config.kv_transfer is None:
        raise _invalid(f"{CONFIG_ENV}: kv_transfer is missing, and role {config.role} hands KV over: set it")
    if config.role is Role.MIXED and config.kv_transfer is not None:
        raise _invalid(f"{CONFIG_ENV}: kv_transfer is set, and role mixed has nothing to hand over: remove it")
    if config.kv_transfer and config.kv_transfer.tls_dir and config.kv_transfer.connector != "tcp":
        raise _invalid(f"{CONFIG_ENV}: kv_transfer.tls_dir goes with connector tcp: the others cannot be encrypted")


def _describe(error: ValidationError) -> str:
    faults = (f"{'.'.join(map(str, fault['loc'])) or 'the value'}: {fault['msg']}" for fault in error.errors())
    return "; ".join(faults)


def _read_address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise _invalid(f"{POD_IP_ENV}={text!r} is not an IP address: set it from status.podIP") from error


def _invalid(message: str) -> WorkerError:
    return WorkerError(Reason.INVALID_SPEC, message)
