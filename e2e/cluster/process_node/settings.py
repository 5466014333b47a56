"""What a node is started with: command line and two variables."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.process_node.addresses import AddressError, AddressPool
from cluster.process_node.backoff import FIRST_S
from cluster.process_node.images import ImageError, ImageTable
from cluster.process_node.kubeconfig import Credentials, KubeconfigError, load_credentials
from cluster.process_node.launching import INHERITED
from cluster.process_node.quantities import QuantityError, parse_quantity

BACKOFF_VARIABLE = "TANDEM_NODE_BACKOFF_S"
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class SettingsError(ValueError):
    """An argument that cannot be used; the message names it and the fix."""


@dataclass(frozen=True)
class Settings:
    node_name: str
    credentials: Credentials
    ca: Path
    cert: Path
    key: Path
    root: Path
    images: ImageTable
    pod_cidr: str
    capacity: Mapping[str, str]
    port: int
    backoff_s: float
    inherited_env: Mapping[str, str]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.process_node",
        description="A node whose pods are local processes: registers itself, runs the pods bound to it, "
        "ends them at SIGTERM. No root and no images; see the package's documentation for the rules.",
    )
    required = parser.add_argument_group("required")
    required.add_argument("--node-name", required=True, metavar="NAME", help="name of the Node object")
    required.add_argument("--kubeconfig", required=True, type=Path, metavar="FILE", help="API server and token")
    required.add_argument("--ca", required=True, type=Path, metavar="FILE", help="CA of the cluster (PEM)")
    required.add_argument("--cert", required=True, type=Path, metavar="FILE", help="serving certificate (PEM)")
    required.add_argument("--key", required=True, type=Path, metavar="FILE", help="key of --cert (PEM)")
    required.add_argument("--root", required=True, type=Path, metavar="DIR", help="folder of pods and logs")
    required.add_argument(
        "--image-table", required=True, type=Path, metavar="FILE",
        help='JSON {"IMAGE": {"venv": "/path", "env": {}, "entrypoint": []}}; read at every look-up',
    )  # fmt: skip
    required.add_argument(
        "--pod-cidr", required=True, metavar="127.A.B.0/24", help="addresses of pods; no other node may use them"
    )
    required.add_argument(
        "--capacity", required=True, metavar="RESOURCE=N,...", help="e.g. nvidia.com/gpu=8,cpu=16,memory=64Gi,pods=110"
    )
    parser.add_argument("--port", type=int, default=0, help="port of the log server on 127.0.0.1 (default: any)")
    parser.epilog = f"{BACKOFF_VARIABLE}=SECONDS shortens the restart back-off (default {FIRST_S:g})."
    return parser


def parse_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Raises SettingsError; argparse exits by itself for a malformed command line."""
    args = build_parser().parse_args(arguments)
    if not _DNS_NAME.fullmatch(args.node_name):
        raise SettingsError(f"--node-name {args.node_name!r}: use lower-case letters, digits, '-' and '.'")
    for option, file in (("--ca", args.ca), ("--cert", args.cert), ("--key", args.key)):
        if not os.access(file, os.R_OK):
            raise SettingsError(f"{option} {file}: no such readable file")
    images = ImageTable(args.image_table)
    try:
        AddressPool(args.pod_cidr)
        images.check()
        credentials = load_credentials(args.kubeconfig)
    except (AddressError, ImageError, KubeconfigError) as error:
        raise SettingsError(str(error)) from error
    return Settings(
        node_name=args.node_name,
        credentials=credentials,
        ca=args.ca,
        cert=args.cert,
        key=args.key,
        root=args.root.resolve(),
        images=images,
        pod_cidr=args.pod_cidr,
        capacity=parse_capacity(args.capacity),
        port=args.port,
        backoff_s=parse_backoff_s(environment),
        inherited_env={name: environment[name] for name in INHERITED if name in environment},
    )


def parse_capacity(text: str) -> dict[str, str]:
    """RESOURCE=QUANTITY pairs; pods defaults to 110. Raises SettingsError."""
    capacity = {"pods": "110"}
    for pair in text.split(","):
        name, equals, quantity = pair.partition("=")
        if not equals or not name:
            raise SettingsError(f"--capacity: {pair!r} is not RESOURCE=N, as in cpu=16,memory=64Gi")
        try:
            parse_quantity(quantity)
        except QuantityError as error:
            raise SettingsError(f"--capacity: {name}: {error}") from error
        capacity[name] = quantity
    return capacity


def parse_backoff_s(environment: Mapping[str, str]) -> float:
    """Raises SettingsError for what is not a number above zero."""
    text = environment.get(BACKOFF_VARIABLE, str(FIRST_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise SettingsError(f"{BACKOFF_VARIABLE}={text!r} must be a number of seconds above zero")
    return seconds
