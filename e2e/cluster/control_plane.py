"""Start etcd, the API server and its controllers, in the order in which they need one another."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import yaml

from cluster import commands
from cluster.client import ApiClient, connect
from cluster.commands import Keys, Ports
from cluster.errors import AddressInUseError, ClusterError
from cluster.identities import (
    ADMIN,
    CONTROLLER_MANAGER,
    KWOK,
    SCHEDULER,
    build_node_identity,
    write_kubeconfigs,
    write_tokens,
)
from cluster.pki import (
    API_SERVER_ADDRESSES,
    API_SERVER_NAMES,
    CertificateAuthority,
    write_service_account_keys,
)
from cluster.places import RunFolder
from cluster.ports import find_free_ports
from cluster.processes import fetch_recorded, is_alive, spawn
from cluster.progress import Step
from cluster.spec import ClusterSpec, process_node_name
from cluster.waiting import wait_until

READY_PATIENCE_S = 180.0  # a hang, not slowness: machines are shared
# Proxies and Go or Python settings of the caller's shell are none of a cluster's business.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "TANDEM_NODE_BACKOFF_S")
LOG_TAIL_BYTES = 8192


def start_control_plane(run: RunFolder, spec: ClusterSpec, step: Step) -> ApiClient:
    """Start everything but nodes; returns a client with full rights once the API server is ready.

    Raises AddressInUseError when a port was taken meanwhile, ClusterError when a component ended.
    """
    ports = Ports(*find_free_ports(3))
    keys = issue_keys(run, spec)
    write_access(run, spec, ports, keys)
    environment = build_environment()
    step.update("starting etcd and the API server")
    spawn("etcd", commands.build_etcd_command(run, ports, make_etcd_data(run)), run, environment)
    spawn("kube-apiserver", commands.build_api_server_command(run, spec, ports, keys), run, environment)
    client = connect(run.kubeconfig(ADMIN.name), keys.ca)
    wait_ready(run, client, step)
    # Started any earlier they collect refusals, because the roles they need do not exist yet, and back off.
    start_controllers(run, spec, keys, environment)
    return client


def start_controllers(run: RunFolder, spec: ClusterSpec, keys: Keys, environment: dict[str, str]) -> None:
    spawn(
        "kube-controller-manager",
        commands.build_controller_manager_command(run, spec, keys),
        run,
        environment,
    )
    spawn("kube-scheduler", commands.build_scheduler_command(run), run, environment)
    if spec.kwok_nodes:
        spawn("kwok", commands.build_kwok_command(run), run, environment)


def issue_keys(run: RunFolder, spec: ClusterSpec) -> Keys:
    """Issue everything that is ever signed in this cluster, serving certificates of its nodes included."""
    authority = CertificateAuthority(run.keys, datetime.datetime.now(datetime.UTC))
    for index in range(spec.process_nodes):
        name = process_node_name(index)
        authority.issue_server(name, (name,), ("127.0.0.1",))
    return Keys(
        ca=authority.certificate,
        api_server=authority.issue_server("kube-apiserver", API_SERVER_NAMES, API_SERVER_ADDRESSES),
        # With this group the API server may use every kubelet without a binding of its own.
        kubelet_client=authority.issue_client("kube-apiserver-kubelet-client", "system:masters"),
        service_account=write_service_account_keys(run.keys),
    )


def write_access(run: RunFolder, spec: ClusterSpec, ports: Ports, keys: Keys) -> None:
    """Write tokens, kubeconfigs, and the audit policy where one is asked for."""
    nodes = [build_node_identity(process_node_name(index)) for index in range(spec.process_nodes)]
    tokens = write_tokens(run, [ADMIN, CONTROLLER_MANAGER, SCHEDULER, KWOK, *nodes])
    write_kubeconfigs(run, tokens, ports.api_server_url, keys.ca)
    if spec.audit_log:
        policy = yaml.safe_dump(commands.build_audit_policy())
        (run.path / "audit-policy.yaml").write_text(policy)


def make_etcd_data(run: RunFolder) -> Path:
    data = run.choose_etcd_data()
    data.mkdir(parents=True, mode=0o700)
    return data


def build_environment() -> dict[str, str]:
    """What components inherit from the caller."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def wait_ready(run: RunFolder, client: ApiClient, step: Step) -> None:
    def is_ready() -> bool:
        check_alive(run)
        step.update("waiting for the API server")
        return client.is_ready()

    log = run.log("kube-apiserver")
    wait_until(
        is_ready,
        READY_PATIENCE_S,
        lambda: ClusterError(
            f"the API server was not ready after {READY_PATIENCE_S:.0f} s",
            "read its log; a machine that is very busy may need another try",
            log,
        ),
    )


def check_alive(run: RunFolder) -> None:
    """Raise for the first component that has ended, with the last line it wrote."""
    for name, process in fetch_recorded(run).items():
        if not is_alive(process):
            raise decide_failure(name, read_tail(run.log(name)), run.log(name))


def decide_failure(name: str, tail: str, log: Path) -> ClusterError:
    """Tell a taken port, which another try mends, from all else."""
    if "address already in use" in tail:
        return AddressInUseError(f"{name} found its port taken", "try again", log)
    last = next((line for line in reversed(tail.splitlines()) if line.strip()), "it wrote nothing")
    return ClusterError(f"{name} ended while the cluster was starting: {last[:300]}", "read its log", log)


def read_tail(log: Path) -> str:
    if not log.exists():
        return ""
    return log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
