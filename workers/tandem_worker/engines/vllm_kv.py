"""Where vLLM's KV goes: `--kv-transfer-config` and what its connectors read from the environment. Pure."""

import json
from ipaddress import ip_address
from math import ceil
from typing import Any

from tandem_api.labels import NIXL_PORT
from tandem_api.worker import EngineConfig, KVTransferConfig, Role
from tandem_worker.settings import Settings

CONNECTOR, CONNECTOR_MODULE = "TandemConnector", "tandem_worker.kv.connector"
NIXL, NIXL_MODULE = "NixlConnector", "tandem_worker.kv_nixl.connector"
OFFLOADING, OFFLOADING_MODULE = "OffloadingConnector", "tandem_worker.kv_offload.connector"
HOST_SPECS_MODULE = "tandem_worker.kv_offload.host"
BESIDE = "MultiConnector"
NCCL_CHUNK_BYTES = 32 << 20  # two round trips between the workers go with each chunk
_CPU_NIXL = {"num_threads": 0}  # vLLM's four are for many NICs; idle they cost a tenth of a core, and these nothing

Config = dict[str, Any]


def build_kv_transfer_config(settings: Settings, instance: str, *, is_cpu: bool) -> str | None:
    """Value of `--kv-transfer-config` (JSON), or None where KV stays where it is. It holds no secret.

    The connector that hands over comes first: of several that could load a prompt, vLLM takes the first.
    """
    config = settings.config
    children: list[Config] = []
    if config.kv_transfer is not None:
        children.append(_transfer(settings, config.kv_transfer, instance, is_cpu=is_cpu))
    if config.engine.kv_offload is not None:
        children.append(_offload(config.engine, is_cpu=is_cpu))
    if not children:
        return None
    policy = {"kv_load_failure_policy": "recompute"}  # vLLM's default answers 500 when a prefill worker dies
    return json.dumps({**_combine(children), "engine_id": instance, **policy})


def build_kv_environment(settings: Settings) -> dict[str, str]:
    """What NIXL reads from its environment; empty with other connectors. A port of its own on the pod's own address."""
    config = settings.config
    if config.kv_transfer is None or config.kv_transfer.connector != "nixl":
        return {}
    own = {"VLLM_NIXL_SIDE_CHANNEL_HOST": settings.pod_ip, "VLLM_NIXL_SIDE_CHANNEL_PORT": str(NIXL_PORT)}
    if ip_address(settings.pod_ip).is_loopback:  # a process node: peers are reached where they say, and nowhere else
        own |= {"UCX_NET_DEVICES": "lo", "UCX_TLS": "tcp,self,sm"}
    return own


def _combine(children: list[Config]) -> Config:
    if len(children) == 1:
        return children[0]
    return {
        "kv_connector": BESIDE,
        "kv_role": children[0]["kv_role"],
        "kv_connector_extra_config": {"connectors": children},
    }


def _transfer(settings: Settings, transfer: KVTransferConfig, instance: str, *, is_cpu: bool) -> Config:
    role = {"kv_role": "kv_producer" if settings.config.role is Role.PREFILL else "kv_consumer"}
    if transfer.connector == "nixl":
        return role | _nixl(settings, transfer, is_cpu=is_cpu)
    return role | _own(settings, transfer, instance)


def _own(settings: Settings, transfer: KVTransferConfig, instance: str) -> Config:
    config = settings.config
    return {
        "kv_connector": CONNECTOR,
        "kv_connector_module_path": CONNECTOR_MODULE,
        "kv_connector_extra_config": {
            "transport": transfer.connector,
            "bind_host": settings.pod_ip,
            "port": config.kv_port,
            "keys_dir": str(settings.keys_dir),
            "run_dir": str(settings.run_dir),
            "fleet": config.fleet,
            "kv_revision": config.kv_revision,
            "engine_id": instance,
            "lease_s": transfer.lease_s,
            **({"tls_dir": transfer.tls_dir} if transfer.tls_dir else {}),
            **({"chunk_bytes": NCCL_CHUNK_BYTES} if transfer.connector == "nccl" else {}),
        },
    }


def _nixl(settings: Settings, transfer: KVTransferConfig, *, is_cpu: bool) -> Config:
    return {
        "kv_connector": NIXL,
        "kv_connector_module_path": NIXL_MODULE,
        "kv_buffer_device": "cpu" if is_cpu else "cuda",
        "kv_connector_extra_config": {
            "kv_lease_duration": ceil(transfer.lease_s),
            **(_CPU_NIXL if is_cpu else {}),
            "tandem": {
                "fleet": settings.config.fleet,
                "keys_dir": str(settings.keys_dir),
                "run_dir": str(settings.run_dir),
                "lease_s": transfer.lease_s,
            },
        },
    }


def _offload(engine: EngineConfig, *, is_cpu: bool) -> Config:
    offload = engine.kv_offload
    assert offload is not None
    extra: Config = {"cpu_bytes_to_use": offload.memory_bytes}
    if offload.disk_dir is None:
        extra["spec_name"] = "HostOffloadingSpec" if is_cpu else "CPUOffloadingSpec"
    else:
        extra["spec_name"] = "HostTieringSpec" if is_cpu else "TieringOffloadingSpec"
        extra["secondary_tiers"] = [{"type": "fs", "root_dir": offload.disk_dir}]
    if is_cpu:
        extra["spec_module_path"] = HOST_SPECS_MODULE
    return {
        "kv_connector": OFFLOADING,
        "kv_connector_module_path": OFFLOADING_MODULE,
        "kv_role": "kv_both",
        "kv_connector_extra_config": extra,
    }
