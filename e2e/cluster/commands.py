"""Pure: the command lines of the control plane, one function per component.

Flags that only keep a component from touching the host, or that make it fast enough for tests, say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.identities import CONTROLLER_MANAGER, KWOK, SCHEDULER
from cluster.pki import KeyPair
from cluster.places import RunFolder
from cluster.spec import ClusterSpec

# Upstream client rates (20 and 50 a second) make 1,000 pods take 50 s; with these they take 6 s.
FAST_CLIENT = ("--kube-api-qps=1000", "--kube-api-burst=2000")
# Each would bind a port and want kubeconfigs for its own authentication.
NO_SERVER = ("--secure-port=0", "--leader-elect=false", "--profiling=false")
# The API server refuses loopback addresses, which pods of process nodes have, in EndpointSlices.
NO_ENDPOINTS = "--controllers=*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller"
SERVICE_CIDR = "10.96.0.0/16"


@dataclass(frozen=True)
class Ports:
    """Loopback ports of one control plane."""

    etcd: int
    etcd_peer: int
    api_server: int

    @property
    def etcd_url(self) -> str:
        return f"http://127.0.0.1:{self.etcd}"

    @property
    def api_server_url(self) -> str:
        return f"https://127.0.0.1:{self.api_server}"


@dataclass(frozen=True)
class Keys:
    """All keys of one control plane."""

    ca: Path
    api_server: KeyPair
    kubelet_client: KeyPair
    service_account: KeyPair


def build_etcd_command(run: RunFolder, ports: Ports, data: Path) -> list[str]:
    peer = f"http://127.0.0.1:{ports.etcd_peer}"
    return [
        str(run.programs / "etcd"),
        "--name=e",
        f"--data-dir={data}",
        "--unsafe-no-fsync",  # the cluster does not outlive the machine anyway
        "--logger=zap",
        "--log-level=warn",
        f"--listen-client-urls={ports.etcd_url}",
        f"--advertise-client-urls={ports.etcd_url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=e={peer}",
    ]


def build_api_server_command(run: RunFolder, spec: ClusterSpec, ports: Ports, keys: Keys) -> list[str]:
    return [
        str(run.programs / "kube-apiserver"),
        f"--etcd-servers={ports.etcd_url}",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports.api_server}",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",  # it would write a loopback address, which is refused
        f"--tls-cert-file={keys.api_server.certificate}",
        f"--tls-private-key-file={keys.api_server.key}",
        f"--cert-dir={run.path / 'apiserver'}",
        f"--client-ca-file={keys.ca}",
        f"--token-auth-file={run.tokens}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--kubelet-certificate-authority={keys.ca}",
        f"--kubelet-client-certificate={keys.kubelet_client.certificate}",
        f"--kubelet-client-key={keys.kubelet_client.key}",
        # The default tries the node's host name first, and waits for DNS.
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys.service_account.certificate}",
        f"--service-account-signing-key-file={keys.service_account.key}",
        "--allow-privileged=true",
        "--profiling=false",
        "--max-requests-inflight=2000",
        "--max-mutating-requests-inflight=1000",
        *build_audit_flags(run, spec),
    ]


def build_audit_flags(run: RunFolder, spec: ClusterSpec) -> list[str]:
    if not spec.audit_log:
        return []
    return [f"--audit-policy-file={run.path / 'audit-policy.yaml'}", f"--audit-log-path={run.audit_log}"]


def build_audit_policy() -> dict[str, object]:
    """Who asked for what, without bodies: enough to compare granted with used permissions."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    }


def build_controller_manager_command(run: RunFolder, spec: ClusterSpec, keys: Keys) -> list[str]:
    return [
        str(run.programs / "kube-controller-manager"),
        f"--kubeconfig={run.kubeconfig(CONTROLLER_MANAGER.name)}",
        *NO_SERVER,
        f"--service-account-private-key-file={keys.service_account.key}",
        f"--root-ca-file={keys.ca}",
        "--use-service-account-credentials=true",
        f"--flex-volume-plugin-dir={run.path / 'flex'}",  # else it makes /usr/libexec/kubernetes
        *FAST_CLIENT,
        "--concurrent-deployment-syncs=20",
        "--concurrent-replicaset-syncs=20",
        "--concurrent-gc-syncs=40",
        "--horizontal-pod-autoscaler-sync-period=2s",
        *([NO_ENDPOINTS] if spec.process_nodes else []),
    ]


def build_scheduler_command(run: RunFolder) -> list[str]:
    kubeconfig = f"--kubeconfig={run.kubeconfig(SCHEDULER.name)}"
    return [str(run.programs / "kube-scheduler"), kubeconfig, *NO_SERVER, *FAST_CLIENT]


def build_kwok_command(run: RunFolder) -> list[str]:
    return [
        str(run.programs / "kwok"),
        f"--kubeconfig={run.kubeconfig(KWOK.name)}",
        f"--config={run.programs / 'kwok-stages.yaml'}",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        "--cidr=10.200.0.0/16",
        "--node-ip=10.201.0.1",
        "--node-lease-duration-seconds=40",
    ]
