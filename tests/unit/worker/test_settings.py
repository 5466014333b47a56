"""What a worker makes of its environment."""

from pathlib import Path

import pytest
from unit.worker.parts import build_config

from tandem_api.conditions import Reason
from tandem_api.worker import KVTransferConfig, Role
from tandem_worker.errors import WorkerError
from tandem_worker.settings import read_settings


def test_defaults_are_the_mount_paths_of_the_pod() -> None:
    settings = read_settings({"TANDEM_WORKER": build_config().model_dump_json()})
    assert settings.pod_ip == "::"
    assert settings.keys_dir == Path("/etc/tandem/keys")
    assert settings.run_dir == Path("/run/tandem")
    assert settings.data_dir == Path("/var/lib/tandem/model")


def test_the_environment_moves_every_directory() -> None:
    settings = read_settings(
        {
            "TANDEM_WORKER": build_config(Role.PREFILL).model_dump_json(),
            "POD_IP": "127.3.2.1",
            "TANDEM_KEYS_DIR": "/k",
            "TANDEM_RUN_DIR": "/r",
            "TANDEM_DATA_DIR": "/d",
        }
    )
    assert (settings.pod_ip, *map(str, (settings.keys_dir, settings.run_dir, settings.data_dir))) == (
        "127.3.2.1",
        "/k",
        "/r",
        "/d",
    )
    assert settings.ranks == 1


def test_a_mixed_worker_has_no_ranks_that_hand_over() -> None:
    assert read_settings({"TANDEM_WORKER": build_config().model_dump_json()}).ranks == 0


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "TANDEM_WORKER is not set"),
        ({"TANDEM_WORKER": "{"}, "Invalid JSON"),
        ({"TANDEM_WORKER": '{"fleet": "a/b"}'}, "kv_revision: Field required"),
        ({"TANDEM_WORKER": build_config().model_dump_json(), "POD_IP": "pod"}, "status.podIP"),
        ({"TANDEM_WORKER": build_config().model_dump_json(), "TANDEM_RUN_DIR": "/r" * 60}, "too long"),
        ({"TANDEM_WORKER": build_config(Role.DECODE, kv_transfer=None).model_dump_json()}, "kv_transfer is missing"),
        ({"TANDEM_WORKER": build_config(kv_transfer=KVTransferConfig()).model_dump_json()}, "remove it"),
        (
            {
                "TANDEM_WORKER": build_config(
                    Role.DECODE, kv_transfer=KVTransferConfig(connector="nccl", tls_dir="/tls")
                ).model_dump_json()
            },
            "goes with connector tcp",
        ),
    ],
)
def test_a_wrong_environment_is_refused_with_the_fix(environ: dict[str, str], words: str) -> None:
    with pytest.raises(WorkerError, match=words) as caught:
        read_settings(environ)
    assert caught.value.reason is Reason.INVALID_SPEC
    assert caught.value.exit_code == 2
