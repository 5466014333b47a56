"""Flags and environment of the operator."""

import argparse
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem_api.v1alpha1.region_slice import REGION_NAME
from tandem_operator.errors import ConfigurationError

DEFAULT_ENGINE_IMAGE = "vllm/vllm-openai:v0.32.0"
DEFAULT_WORKER_IMAGE = "tandem.dev/worker:0.1.0"


@dataclass(frozen=True)
class Settings:
    """How this replica was started."""

    namespaces: tuple[str, ...]  # empty: all
    namespace: str | None  # the operator's own; None: that of the service account or kubeconfig
    identity: str
    lease_name: str
    engine_image: str
    worker_image: str
    endpoint: str | None
    monitoring_namespace: str | None
    region: str  # empty: regions are off
    health_host: str
    health_port: int
    metrics_port: int
    kubeconfig: str | None
    log_level: str

    def serves(self, namespace: str) -> bool:
        """Whether InferenceDeployments of a namespace are this installation's."""
        return not self.namespaces or namespace in self.namespaces


def read_settings(arguments: Sequence[str] | None, environment: Mapping[str, str]) -> Settings:
    """Flags first, environment second, defaults last.

    Raises:
        ConfigurationError: a value is out of range.
    """
    options = _parser(environment).parse_args(arguments)
    names = tuple(name.strip() for name in options.namespaces.split(",") if name.strip())
    if not names:
        raise ConfigurationError("--namespaces is empty: give `all`, or names separated by commas")
    return Settings(
        namespaces=() if names == ("all",) else names,
        namespace=options.namespace,
        identity=environment.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}",
        lease_name=options.lease_name,
        engine_image=options.engine_image,
        worker_image=options.worker_image,
        endpoint=options.endpoint,
        monitoring_namespace=options.monitoring_namespace or None,
        region=options.region,
        health_host=options.health_host,
        health_port=options.health_port,
        metrics_port=options.metrics_port,
        kubeconfig=options.kubeconfig,
        log_level=options.log_level,
    )


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tandem-operator",
        description="Runs disaggregated LLM inference fleets: watches InferenceDeployments, makes their children.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--namespaces", default="all", help="namespaces to serve, separated by commas, or all")
    add("--namespace", default=environment.get("POD_NAMESPACE"), help="namespace of this installation")
    add("--lease-name", default="tandem-operator", help="name of the leader's Lease")
    add("--engine-image", default=environment.get("TANDEM_DEFAULT_ENGINE_IMAGE", DEFAULT_ENGINE_IMAGE))
    add("--worker-image", default=environment.get("TANDEM_WORKER_IMAGE", DEFAULT_WORKER_IMAGE))
    add("--endpoint", default=environment.get("TANDEM_ENDPOINT"), help="URL of the routers, shown in status.endpoint")
    add("--monitoring-namespace", help="namespace whose pods may scrape the workers' metrics")
    add(
        "--region",
        type=read_region,
        default=environment.get("TANDEM_REGION", ""),
        help="name of this region; empty: none",
    )
    add("--health-host", default=environment.get("POD_IP", "::"), help="address of the health and metrics listeners")
    add("--health-port", type=_port, default=8080)
    add("--metrics-port", type=_port, default=9090)
    add("--kubeconfig", help="file to use instead of the pod's service account")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser


def read_region(text: str) -> str:
    """The value of --region.

    Raises:
        ArgumentTypeError: no region can have that name.
    """
    if text and not re.fullmatch(REGION_NAME, text):
        raise argparse.ArgumentTypeError(f"{text!r} is no region's name: a DNS label that starts with a letter")
    return text


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port: give 0 to 65535")
    return port
