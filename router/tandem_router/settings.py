"""What the command line and the environment say."""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from tandem_api import labels
from tandem_router.digests.mesh import parse_address

DEFAULT_KEYS_DIR = "/etc/tandem/router"
REGION_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
BOUNDS = dict.fromkeys(("connect_timeout", "connects_at_once", "stall_timeout", "max_connections"), inf)
BOUNDS |= {"trace_share": 1, "hedge_share": 1}
LOG_LEVELS = ("debug", "info", "warning", "error")
SERVICE_ACCOUNT_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True)
class Settings:
    """Everything that may differ between two routers."""

    host: str
    port: int
    internal_port: int
    namespaces: tuple[str, ...] | None  # None: all
    static_file: Path | None
    state_dir: Path | None
    keys_dir: Path
    service_account_dir: Path
    api_server: str | None
    replica: str
    drain_timeout_s: float
    max_body_bytes: int
    default_slots: int
    queue_limit: int
    queue_tokens: int
    index_blocks: int
    min_remote_tokens: int
    retries: int
    hedge_share: float
    prefill_timeout_s: float
    first_byte_timeout_s: float
    connect_timeout_s: float
    connects_at_once: int
    stall_timeout_s: float
    max_connections: int | None
    tenants_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    upstream_ca: Path | None
    upstream_server_name: str | None
    reuse_port: bool
    otlp_endpoint: str | None
    trace_share: float
    internal_tls_cert: Path | None
    internal_tls_key: Path | None
    internal_tls_ca: Path | None
    region: str
    regions_dir: Path | None
    region_token_file: Path | None
    peers: tuple[str, ...]
    peer_selector: str
    kv_probe: bool
    log_level: str


def build_parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
    """The command line, with defaults from the environment."""
    parser = argparse.ArgumentParser(
        prog="tandem-router",
        description="OpenAI-compatible router for disaggregated inference fleets: chooses a prefill and a "
        "decode worker for each request, hands the KV cache over, relays tokens.",
        epilog="`tandem-router explain --help`: why a request went where it went.",
    )
    _add_listening(parser, env)
    _add_discovery(parser, env)
    _add_regions(parser, env)
    _add_gateway(parser)
    _add_tracing(parser, env)
    _add_limits(parser)
    return parser


def _add_listening(parser: argparse.ArgumentParser, env: Mapping[str, str]) -> None:
    group = parser.add_argument_group("listening")
    group.add_argument("--host", default=env.get("POD_IP", "::"), help="address to bind (default: $POD_IP, else ::)")
    group.add_argument("--port", type=int, default=labels.ROUTER_HTTP_PORT, help="clients (default: %(default)s)")
    group.add_argument(
        "--internal-port",
        type=int,
        default=labels.ROUTER_INTERNAL_PORT,
        help="operator and other routers, with a bearer token (default: %(default)s)",
    )
    group.add_argument(
        "--tls-cert", type=Path, help="certificate of the clients' listener, PEM; followed while running"
    )
    group.add_argument("--tls-key", type=Path, help="its key, PEM")
    group.add_argument(
        "--reuse-port",
        action="store_true",
        help="let other router processes of this host listen on the same port (SO_REUSEPORT); each takes a share of "
        "the connections, and needs an internal port of its own",
    )
    group.add_argument("--internal-tls-cert", type=Path, help="certificate of the internal listener, PEM")
    group.add_argument("--internal-tls-key", type=Path, help="its key, PEM")
    group.add_argument(
        "--internal-tls-ca", type=Path, help="CA of the routers' certificates, PEM: peers must then show one"
    )
    group.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="internal listener of another replica; give it once for each (default: found by --peer-selector)",
    )
    group.add_argument(
        "--peer-selector", default="", metavar="LABELS", help="labels of the router pods in this pod's namespace"
    )
    group.add_argument(
        "--drain-timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long streams may go on after SIGTERM (default: %(default)s)",
    )


def _add_regions(parser: argparse.ArgumentParser, env: Mapping[str, str]) -> None:
    group = parser.add_argument_group("regions")
    group.add_argument(
        "--region",
        metavar="NAME",
        default=env.get("TANDEM_REGION", ""),
        help="name of this region among those that InferenceRegions describe (docs/regions.md); without it there is "
        "one region (default: $TANDEM_REGION)",
    )
    group.add_argument(
        "--regions-dir",
        type=Path,
        metavar="DIR",
        default=env.get("TANDEM_REGIONS_DIR"),
        help="a directory for each peer region, with the `token` that it accepts and the `ca.crt` of its listener; "
        "followed while running (default: $TANDEM_REGIONS_DIR)",
    )
    group.add_argument(
        "--region-token-file",
        type=Path,
        metavar="FILE",
        default=env.get("TANDEM_REGION_TOKEN_FILE"),
        help="tokens that routers of other regions may show to this one, one per line; followed while running "
        "(default: $TANDEM_REGION_TOKEN_FILE)",
    )


def _add_tracing(parser: argparse.ArgumentParser, env: Mapping[str, str]) -> None:
    group = parser.add_argument_group("tracing")
    group.add_argument(
        "--otlp-endpoint",
        metavar="URL",
        default=env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        help="where spans are sent: a collector's /v1/traces, OTLP over HTTP (default: none are made)",
    )
    group.add_argument(
        "--trace-share",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of the requests whose client traces them not itself; those of a sampled trace always are "
        "(default: %(default)s)",
    )


def _add_gateway(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("gateway")
    group.add_argument(
        "--tenants-file",
        type=Path,
        metavar="FILE",
        help="tenants, their API keys, token issuers and limits (docs/tenants.md); followed while running. "
        "Without it everybody who reaches the listener may ask",
    )


def _add_discovery(parser: argparse.ArgumentParser, env: Mapping[str, str]) -> None:
    group = parser.add_argument_group("discovery")
    group.add_argument(
        "--namespaces", default="", help="namespaces to serve, comma-separated, or 'all' (default: the router's own)"
    )
    group.add_argument(
        "--upstream-ca",
        type=Path,
        metavar="FILE",
        help="authority of workers that a static file marks with `tls: true`",
    )
    group.add_argument(
        "--upstream-server-name", metavar="NAME", help="name in those workers' certificates (default: their address)"
    )
    group.add_argument("--static", type=Path, metavar="FILE", help="fleets from a YAML file instead of Kubernetes")
    group.add_argument("--state-dir", type=Path, help="where the last good state is kept for the next start")
    group.add_argument(
        "--keys-dir",
        type=Path,
        default=env.get("TANDEM_ROUTER_KEYS_DIR", DEFAULT_KEYS_DIR),
        help="directory of router.key (default: %(default)s)",
    )
    group.add_argument(
        "--api-server",
        metavar="URL",
        help="Kubernetes API (default: from KUBERNETES_SERVICE_HOST and _PORT)",
    )
    group.add_argument(
        "--service-account-dir",
        type=Path,
        default=env.get("TANDEM_SERVICEACCOUNT_DIR", SERVICE_ACCOUNT_DIR),
        help="directory of token, ca.crt and namespace (default: %(default)s)",
    )
    group.add_argument(
        "--replica",
        default=env.get("POD_NAME", env.get("HOSTNAME", "router")),
        help="name of this replica (default: $POD_NAME)",
    )
    parser.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default="info",
        help="least severe line that is written (default: %(default)s)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits and policy")
    group.add_argument("--max-body-bytes", type=int, default=16 * 1024 * 1024, metavar="N", help="of a request")
    group.add_argument("--default-slots", type=int, default=256, metavar="N", help="of workers that do not tell theirs")
    group.add_argument("--queue-limit", type=int, default=1024, metavar="N", help="waiting requests per fleet")
    group.add_argument(
        "--queue-tokens", type=int, default=8_000_000, metavar="N", help="prompt tokens that may wait per fleet"
    )
    group.add_argument("--index-blocks", type=int, default=65_536, metavar="N", help="prefix blocks of 256 bytes kept")
    group.add_argument(
        "--min-remote-tokens",
        type=int,
        default=64,
        metavar="N",
        help="prefill stays on a decode worker that holds the prompt but for so many tokens (default: %(default)s)",
    )
    group.add_argument(
        "--kv-probe",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="prove with a request of our own that KV moves between new pairs of workers (default: on)",
    )
    group.add_argument("--retries", type=int, default=2, metavar="N", help="per leg, before the first byte")
    group.add_argument(
        "--hedge-share",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="of requests whose prefill may be begun on a second worker when late; 0: never (default: %(default)s)",
    )
    group.add_argument(
        "--prefill-timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="of a prefill leg, plus 10 ms per prompt token (default: %(default)s)",
    )
    group.add_argument(
        "--first-byte-timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="of the answering leg (default: %(default)s)",
    )
    _add_connection_limits(group)


def _add_connection_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--connect-timeout",
        type=float,
        default=3.0,
        metavar="SECONDS",
        help="after which a worker that cannot be connected to is given up (default: %(default)s)",
    )
    help_ = "new connections to one worker that are made at a time (default: %(default)s)"
    group.add_argument("--connects-at-once", type=int, default=64, metavar="N", help=help_)
    group.add_argument(
        "--stall-timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="after which an answer that has begun and does not go on is given up (default: %(default)s)",
    )
    help_ = "of clients; further ones are answered with 429 (default: half of the files that may be open)"
    group.add_argument("--max-connections", type=int, metavar="N", help=help_)


def _refuse_out_of_bounds(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    for name, most in BOUNDS.items():
        value = getattr(given, name)
        if value is not None and not (0 < value < inf if most == inf else 0 <= value <= most):
            wanted = "above 0" if most == inf else f"a share, from 0 to {most}"
            parser.error(f"--{name.replace('_', '-')} must be {wanted}, and is {value}")


def _refuse_contradictions(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Exits with a usage message that names the flag and the fix."""
    if (given.internal_tls_cert is None) != (given.internal_tls_key is None):
        parser.error("--internal-tls-cert and --internal-tls-key belong together: give both or neither")
    if (given.tls_cert is None) != (given.tls_key is None):
        parser.error("--tls-cert and --tls-key belong together: give both or neither")
    if given.internal_tls_ca is not None and given.internal_tls_cert is None:
        parser.error("--internal-tls-ca needs --internal-tls-cert and --internal-tls-key: peers ask for ours")
    if given.region and not REGION_NAME.fullmatch(given.region):
        parser.error("--region is a name of lower-case letters, digits and hyphens, as its InferenceRegion has")
    for peer in given.peer:
        try:
            parse_address(peer)
        except ValueError as error:
            parser.error(f"--peer: {error}")


def parse_settings(arguments: Sequence[str], env: Mapping[str, str] = os.environ) -> Settings:
    """Settings from flags and environment; exits with a usage message when they are wrong."""
    parser = build_parser(env)
    given = parser.parse_args(arguments)
    _refuse_out_of_bounds(parser, given)
    _refuse_contradictions(parser, given)
    return Settings(
        host=given.host,
        port=given.port,
        internal_port=given.internal_port,
        namespaces=parse_namespaces(given.namespaces, given.service_account_dir),
        static_file=given.static,
        state_dir=given.state_dir,
        keys_dir=given.keys_dir,
        service_account_dir=given.service_account_dir,
        api_server=given.api_server or api_server_from(env),
        replica=given.replica,
        drain_timeout_s=given.drain_timeout,
        max_body_bytes=given.max_body_bytes,
        default_slots=given.default_slots,
        queue_limit=given.queue_limit,
        queue_tokens=given.queue_tokens,
        index_blocks=given.index_blocks,
        min_remote_tokens=given.min_remote_tokens,
        retries=given.retries,
        hedge_share=given.hedge_share,
        prefill_timeout_s=given.prefill_timeout,
        first_byte_timeout_s=given.first_byte_timeout,
        connect_timeout_s=given.connect_timeout,
        connects_at_once=given.connects_at_once,
        stall_timeout_s=given.stall_timeout,
        max_connections=given.max_connections,
        tenants_file=given.tenants_file,
        tls_cert=given.tls_cert,
        tls_key=given.tls_key,
        upstream_ca=given.upstream_ca,
        upstream_server_name=given.upstream_server_name,
        reuse_port=given.reuse_port,
        otlp_endpoint=given.otlp_endpoint,
        trace_share=given.trace_share,
        internal_tls_cert=given.internal_tls_cert,
        internal_tls_key=given.internal_tls_key,
        internal_tls_ca=given.internal_tls_ca,
        region=given.region,
        regions_dir=given.regions_dir,
        region_token_file=given.region_token_file,
        peers=tuple(given.peer),
        peer_selector=given.peer_selector,
        kv_probe=given.kv_probe,
        log_level=given.log_level,
    )


def parse_namespaces(text: str, service_account_dir: Path) -> tuple[str, ...] | None:
    """Namespaces to serve, None for all; empty text means the service account's own."""
    if text.strip() == "all":
        return None
    named = tuple(part.strip() for part in text.split(",") if part.strip())
    if named:
        return named
    own = service_account_dir / "namespace"
    return (own.read_text().strip(),) if own.exists() else ("default",)


def api_server_from(env: Mapping[str, str]) -> str | None:
    """URL of the API server that Kubernetes puts into every pod's environment."""
    host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return None
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
