"""Who talks to the API server, by which token, from which kubeconfig."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from cluster.pki import write_secret
from cluster.places import RunFolder


@dataclass(frozen=True)
class Identity:
    """A user of the API server; ``name`` names its kubeconfig."""

    name: str
    user: str
    group: str = ""


ADMIN = Identity("admin", "admin", "system:masters")
CONTROLLER_MANAGER = Identity("kube-controller-manager", "system:kube-controller-manager")
SCHEDULER = Identity("kube-scheduler", "system:kube-scheduler")
KWOK = Identity("kwok", "kwok", "system:masters")


def build_node_identity(node_name: str) -> Identity:
    """What the Node authorizer and NodeRestriction expect of a kubelet."""
    return Identity(node_name, f"system:node:{node_name}", "system:nodes")


def write_tokens(run: RunFolder, identities: Iterable[Identity]) -> dict[Identity, str]:
    """Write the API server's token file with a fresh token for each identity."""
    tokens = {identity: secrets.token_hex(24) for identity in identities}
    lines = [f'{token},{identity.user},{identity.user},"{identity.group}"\n' for identity, token in tokens.items()]
    write_secret(run.tokens, "".join(lines).encode())
    return tokens


def write_kubeconfigs(run: RunFolder, tokens: dict[Identity, str], server: str, ca: Path) -> None:
    """One kubeconfig per identity, naming the CA by content so that the file can be moved."""
    for identity, token in tokens.items():
        config = build_kubeconfig(f"tandem-{run.name}", server, ca.read_text(), token)
        write_secret(run.kubeconfig(identity.name), yaml.safe_dump(config, sort_keys=False).encode())


def build_kubeconfig(name: str, server: str, ca_pem: str, token: str) -> dict[str, object]:
    authority = base64.b64encode(ca_pem.encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
