"""The control plane's command lines depend on the spec where they should, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.commands import (
    NO_ENDPOINTS,
    Keys,
    Ports,
    build_api_server_command,
    build_controller_manager_command,
    build_etcd_command,
    build_kwok_command,
    build_scheduler_command,
)
from cluster.identities import build_kubeconfig, build_node_identity
from cluster.pki import KeyPair
from cluster.places import RunFolder
from cluster.spec import ClusterSpec

RUN = RunFolder(Path("/c/run/one"))
PORTS = Ports(1001, 1002, 1003)
PAIR = KeyPair(Path("/k/x.crt"), Path("/k/x.key"))
KEYS = Keys(Path("/k/ca.crt"), PAIR, PAIR, PAIR)


def test_endpoint_controllers_are_off_exactly_with_process_nodes() -> None:
    """Loopback pod addresses are refused in EndpointSlices; KWOK's are not."""
    with_nodes = build_controller_manager_command(RUN, ClusterSpec(process_nodes=1), KEYS)
    without = build_controller_manager_command(RUN, ClusterSpec(kwok_nodes=3), KEYS)
    assert set(with_nodes) - set(without) == {NO_ENDPOINTS}


def test_the_audit_log_is_written_only_on_request() -> None:
    """Auditing costs time, so that it has to be asked for."""
    plain = build_api_server_command(RUN, ClusterSpec(), PORTS, KEYS)
    audited = build_api_server_command(RUN, ClusterSpec(audit_log=True), PORTS, KEYS)
    assert set(audited) - set(plain) == {
        "--audit-policy-file=/c/run/one/audit-policy.yaml",
        "--audit-log-path=/c/run/one/log/audit.jsonl",
    }


@pytest.mark.parametrize(
    "command",
    [
        build_etcd_command(RUN, PORTS, Path("/d")),
        build_api_server_command(RUN, ClusterSpec(), PORTS, KEYS),
        build_controller_manager_command(RUN, ClusterSpec(), KEYS),
        build_scheduler_command(RUN),
        build_kwok_command(RUN),
    ],
    ids=lambda command: Path(command[0]).name,
)
def test_nothing_listens_beyond_loopback_or_writes_outside_its_folders(command: list[str]) -> None:
    """A test cluster is nobody else's business."""
    values = [word.partition("=")[2] for word in command[1:]]
    paths = [value for value in values if value.startswith("/")]
    urls = [value for value in values if value.startswith("http") and "kubernetes.default" not in value]
    assert all(path.startswith(("/c/run/one/", "/k/", "/d")) for path in paths)
    assert all("127.0.0.1:" in url for url in urls)
    assert not [word for word in command if "0.0.0.0" in word]


def test_a_node_has_the_identity_that_the_node_authorizer_expects() -> None:
    """Least rights: a process node may do what a kubelet may."""
    identity = build_node_identity("process-0")
    assert (identity.user, identity.group) == ("system:node:process-0", "system:nodes")


def test_a_kubeconfig_holds_all_it_needs() -> None:
    """It works from anywhere: the authority is inside, not a path."""
    config = build_kubeconfig("tandem-one", "https://127.0.0.1:1003", "PEM", "secret")
    assert config["clusters"] == [
        {
            "name": "tandem-one",
            "cluster": {"server": "https://127.0.0.1:1003", "certificate-authority-data": "UEVN"},
        }
    ]
    assert config["users"] == [{"name": "tandem-one", "user": {"token": "secret"}}]
    assert config["current-context"] == "tandem-one"
