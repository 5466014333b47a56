"""The routers that are measured, and how each is started as its makers would, prefix-aware where it can be."""

from __future__ import annotations

import hashlib
import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster.golang import find_uv
from cluster.places import Places

FOLDER = Path(__file__).parent
OURS = "tandem"


class PeerMissingError(Exception):
    """This peer cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Setting:
    """Where a router listens and what it has behind it."""

    python: str
    port: int
    side_port: int
    engines: list[int]
    is_split: bool
    folder: Path

    @property
    def urls(self) -> list[str]:
        """Base URLs of the engines."""
        return [f"http://127.0.0.1:{port}" for port in self.engines]


@dataclass(frozen=True)
class Peer:
    """One router.

    Attributes:
        package: its package, None for what needs no installation.
        share: part of the full load that it is given, so that slow ones end in time.
    """

    name: str
    package: str | None
    command: Callable[[Setting], list[str]]
    splits: bool = True
    share: float = 1.0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def pins(self) -> Path:
        """Its packages, with hashes."""
        return FOLDER / f"requirements-{self.package}.txt"


def tandem_command(setting: Setting) -> list[str]:
    roles = ["prefill", "prefill", "decode", "decode"] if setting.is_split else ["mixed"] * 4
    workers = [
        {"name": f"w{port}", "role": role, "address": "127.0.0.1", "httpPort": port, "adminPort": None}
        for role, port in zip(roles, setting.engines, strict=True)
    ]
    fleets = setting.folder / f"fleets-{setting.port}.json"
    fleets.write_text(json.dumps({"fleets": [{"name": "bench", "servedName": "bench", "workers": workers}]}))
    ports = ["--host", "127.0.0.1", "--port", str(setting.port), "--internal-port", str(setting.side_port)]
    keys = ["--keys-dir", str(setting.folder), "--static", str(fleets)]
    return [setting.python, "-m", "tandem_router", *ports, *keys, "--default-slots", "4096"]


def haproxy_command(setting: Setting) -> list[str]:
    servers = "\n".join(f"  server w{port} 127.0.0.1:{port}" for port in setting.engines)
    config = setting.folder / f"haproxy-{setting.port}.cfg"
    config.write_text(
        f"global\n  nbthread 1\n  maxconn {most_connections()}\n"
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 300s\n"
        f"  timeout server 300s\nlisten router\n  bind 127.0.0.1:{setting.port}\n  balance leastconn\n{servers}\n"
    )
    return ["haproxy", "-db", "-f", str(config)]


def most_connections() -> int:
    """As many as the limit of open files allows, two for each connection."""
    return min(30_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 100)


def sglang_command(setting: Setting) -> list[str]:
    command = [setting.python, "-m", "sglang_router.launch_router", *common_flags(setting), "--log-level", "error"]
    if not setting.is_split:
        return [*command, "--worker-urls", *setting.urls]
    legs = [flag for url in setting.urls[:2] for flag in ("--prefill", url, str(setting.side_port))]
    return [*command, "--pd-disaggregation", *legs, *decode_flags(setting)]


def vllm_command(setting: Setting) -> list[str]:
    command = [setting.python, "-m", "vllm_router.launch_router", *common_flags(setting), "--log-level", "error"]
    if not setting.is_split:
        return [*command, "--worker-urls", *setting.urls]
    legs = [flag for url in setting.urls[:2] for flag in ("--prefill", url)]
    return [*command, "--vllm-pd-disaggregation", *legs, *decode_flags(setting)]


def common_flags(setting: Setting) -> list[str]:
    listen = ["--host", "127.0.0.1", "--port", str(setting.port), "--prometheus-port", str(setting.side_port)]
    return [*listen, "--policy", "cache_aware"]


def decode_flags(setting: Setting) -> list[str]:
    return [flag for url in setting.urls[2:] for flag in ("--decode", url)]


def litellm_command(setting: Setting) -> list[str]:
    models = [
        {
            "model_name": "bench",
            "litellm_params": {"model": "openai/bench", "api_base": f"{url}/v1", "api_key": "bench"},
        }
        for url in setting.urls
    ]
    config = setting.folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": models}))  # JSON is YAML
    program = str(Path(setting.python).with_name("litellm"))
    return [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(setting.port)]


PEERS = (
    Peer(OURS, None, tandem_command),
    Peer("haproxy", None, haproxy_command, splits=False),
    Peer("sglang-router", "sglang-router", sglang_command),
    Peer("vllm-router", "vllm-router", vllm_command, share=0.5),
    Peer(
        "litellm",
        "litellm",
        litellm_command,
        splits=False,
        share=0.02,
        environment={
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # it serves this machine only
        },
    ),
)


def install(peer: Peer, places: Places) -> str:
    """The Python that runs `peer`; an environment of its own, kept in the cache by its pins.

    Raises:
        PeerMissingError: it is not on this machine and cannot be installed.
    """
    if peer.package is None:
        return require_program(peer)
    key = hashlib.sha256(peer.pins.read_bytes()).hexdigest()[:12]
    home = places.cache / "bench" / f"{peer.package}-{key}"
    python = home / "bin" / "python"
    if not (home / ".complete").exists():
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        shutil.rmtree(home, ignore_errors=True)
        run_step(peer, [find_uv(), "venv", "-q", "--python", version, str(home)])
        pins = ["--require-hashes", "-r", str(peer.pins)]
        run_step(peer, [find_uv(), "pip", "install", "-q", "--python", str(python), *pins])
        (home / ".complete").touch()
    return str(python)


def require_program(peer: Peer) -> str:
    if peer.name != OURS and shutil.which(peer.name) is None:
        raise PeerMissingError(f"{peer.name} is not on this machine")
    return sys.executable


def run_step(peer: Peer, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerMissingError(f"{peer.name} cannot be installed: {done.stderr.strip()[-300:]}")


def pinned_version(peer: Peer) -> str:
    """Version of the peer's package, empty for what has none."""
    if peer.package is None:
        return ""
    found = re.search(rf"^{re.escape(peer.package)}==(\S+)", peer.pins.read_text(), re.MULTILINE)
    return found[1] if found else ""
