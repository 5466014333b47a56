"""What vLLM is told of its KV connectors."""

import json
from pathlib import Path
from typing import Any

import pytest
from unit.worker.parts import build_config

from tandem_api.worker import EngineConfig, KVOffloadConfig, KVTransferConfig, Role
from tandem_worker.engines.vllm import Build, build_arguments, build_environment
from tandem_worker.engines.vllm_kv import build_kv_environment, build_kv_transfer_config
from tandem_worker.kv.settings import SettingsError
from tandem_worker.kv.settings import read_settings as read_own_settings
from tandem_worker.kv_nixl.settings import read_settings as read_nixl_settings
from tandem_worker.models import ModelFiles
from tandem_worker.settings import Settings

CPU = Build("0.32.0", is_cpu=True)
TINY = ModelFiles("models/tiny", is_tiny=True)
OWN = {
    "transport": "tcp",
    "bind_host": "10.0.0.7",
    "port": 5600,
    "keys_dir": "/keys",
    "run_dir": "/run/tandem",
    "fleet": "default/chat",
    "kv_revision": "r1",
    "engine_id": "instance-1",
    "lease_s": 5.0,
}


def make_settings(
    role: Role = Role.MIXED,
    connector: Any = "tcp",
    offload: KVOffloadConfig | None = None,
    pod_ip: str = "10.0.0.7",
) -> Settings:
    transfer = None if role is Role.MIXED else KVTransferConfig(connector=connector, lease_s=5)
    config = build_config(role, engine=EngineConfig(kv_offload=offload), kv_transfer=transfer)
    return Settings(config, pod_ip, Path("/keys"), Path("/run/tandem"), Path("/data"))


def read(settings: Settings, *, is_cpu: bool = False) -> dict[str, Any]:
    text = build_kv_transfer_config(settings, "instance-1", is_cpu=is_cpu)
    assert text is not None
    config: dict[str, Any] = json.loads(text)
    return config


@pytest.mark.parametrize(("role", "kv_role"), [(Role.PREFILL, "kv_producer"), (Role.DECODE, "kv_consumer")])
def test_the_connector_is_told_its_role_place_and_identity_and_no_secret(role: Role, kv_role: str) -> None:
    settings = make_settings(role)
    assert read(settings) == {
        "kv_connector": "TandemConnector",
        "kv_connector_module_path": "tandem_worker.kv.connector",
        "kv_role": kv_role,
        "kv_load_failure_policy": "recompute",
        "engine_id": "instance-1",
        "kv_connector_extra_config": OWN,
    }
    assert build_arguments(settings, TINY, CPU, "instance-1")[-2] == "--kv-transfer-config"
    assert build_kv_environment(settings) == {}


def test_a_mixed_worker_hands_nothing_over() -> None:
    assert build_kv_transfer_config(make_settings(), "i", is_cpu=True) is None
    assert "--kv-transfer-config" not in build_arguments(make_settings(), TINY, CPU, "i")


def test_the_connectors_accept_what_they_are_told() -> None:
    own = read(make_settings(Role.PREFILL))["kv_connector_extra_config"]
    assert read_own_settings(own).engine_id == "instance-1"
    nixl = read(make_settings(Role.PREFILL, "nixl"))["kv_connector_extra_config"]
    assert str(read_nixl_settings(nixl).local_socket(2)) == "/run/tandem/kv-2.sock"
    with pytest.raises(SettingsError, match=r"tandem\.fleet"):
        read_nixl_settings({"tandem": nixl["tandem"] | {"fleet": "nameless"}})


def test_nixl_is_vllms_own_connector_with_our_contract_around_it() -> None:
    config = read(make_settings(Role.DECODE, "nixl"))
    assert (config["kv_connector"], config["kv_role"], config["kv_buffer_device"]) == (
        "NixlConnector",
        "kv_consumer",
        "cuda",
    )
    assert config["kv_connector_module_path"] == "tandem_worker.kv_nixl.connector"
    assert config["kv_connector_extra_config"]["kv_lease_duration"] == 5
    on_cpu = read(make_settings(Role.DECODE, "nixl"), is_cpu=True)
    assert (on_cpu["kv_buffer_device"], on_cpu["kv_connector_extra_config"]["num_threads"]) == ("cpu", 0)


def test_nixl_listens_at_the_pods_own_address_and_on_loopback_stays_there() -> None:
    in_cluster = build_environment({}, make_settings(Role.PREFILL, "nixl"), TINY, CPU)
    assert in_cluster["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "10.0.0.7"
    assert in_cluster["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "5700"
    assert "UCX_NET_DEVICES" not in in_cluster
    assert build_kv_environment(make_settings(Role.PREFILL, "nixl", pod_ip="127.3.2.1"))["UCX_NET_DEVICES"] == "lo"


def test_offloading_stands_beside_the_hand_over_which_is_asked_first() -> None:
    offload = KVOffloadConfig(memory_bytes=1 << 30, disk_dir="/kv", disk_bytes=1 << 40)
    config = read(make_settings(Role.DECODE, offload=offload))
    transfer, offloading = config["kv_connector_extra_config"]["connectors"]
    assert (config["kv_connector"], config["kv_role"]) == ("MultiConnector", "kv_consumer")
    assert config["kv_load_failure_policy"] == "recompute"
    assert (transfer["kv_connector"], transfer["kv_connector_extra_config"]) == ("TandemConnector", OWN)
    assert offloading == {
        "kv_connector": "OffloadingConnector",
        "kv_connector_module_path": "tandem_worker.kv_offload.connector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "cpu_bytes_to_use": 1 << 30,
            "spec_name": "TieringOffloadingSpec",
            "secondary_tiers": [{"type": "fs", "root_dir": "/kv"}],
        },
    }


def test_a_mixed_worker_may_offload_and_the_cpu_build_does_so_by_our_own_copies() -> None:
    config = read(make_settings(offload=KVOffloadConfig(memory_bytes=1 << 20)), is_cpu=True)
    assert config["kv_connector"] == "OffloadingConnector"
    assert config["kv_connector_extra_config"] == {
        "cpu_bytes_to_use": 1 << 20,
        "spec_name": "HostOffloadingSpec",
        "spec_module_path": "tandem_worker.kv_offload.host",
    }
