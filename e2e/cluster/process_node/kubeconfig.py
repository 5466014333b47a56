"""The part of a kubeconfig file that a node needs: server, CA, and a token or a client certificate."""

from __future__ import annotations

import base64
import binascii
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml


class KubeconfigError(ValueError):
    """A kubeconfig that lacks what a node needs."""


@dataclass(frozen=True)
class Credentials:
    server: str
    ca_pem: str
    token: str = ""
    client_cert_pem: str = ""
    client_key_pem: str = ""

    @property
    def host(self) -> str:
        return urlsplit(self.server).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.server).port or 443

    def build_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def build_tls_context(self) -> ssl.SSLContext:
        """Raises ssl.SSLError for an unusable certificate."""
        context = ssl.create_default_context(cadata=self.ca_pem)
        if self.client_cert_pem:
            # The ssl module takes a key pair from a file only.
            with tempfile.NamedTemporaryFile("w") as pair:
                pair.write(self.client_cert_pem + "\n" + self.client_key_pem)
                pair.flush()
                context.load_cert_chain(pair.name)
        return context


def load_credentials(file: Path) -> Credentials:
    """Those of the file's current context. Raises KubeconfigError naming the field."""
    try:
        config = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise KubeconfigError(f"kubeconfig {file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise KubeconfigError(f"kubeconfig {file} is empty or no mapping")
    context = _named(config, "contexts", "context", config.get("current-context"))
    cluster = _named(config, "clusters", "cluster", context.get("cluster"))
    user = _named(config, "users", "user", context.get("user"))
    server = cluster.get("server", "")
    if not server.startswith("https://"):
        raise KubeconfigError(f"kubeconfig {file}: cluster.server is {server!r}; it must be an https URL")
    return Credentials(
        server=server.rstrip("/"),
        ca_pem=_data(cluster, "certificate-authority", file),
        token=user.get("token", ""),
        client_cert_pem=_data(user, "client-certificate", file),
        client_key_pem=_data(user, "client-key", file),
    )


def _named(config: dict[str, Any], group: str, kind: str, name: str | None) -> dict[str, Any]:
    for entry in config.get(group) or []:
        if entry.get("name") == name:
            return dict(entry.get(kind) or {})
    raise KubeconfigError(f"kubeconfig: no entry {name!r} in {group}")


def _data(section: dict[str, Any], field: str, file: Path) -> str:
    """The text of field-data (base64) or of the file that field names; empty if there is neither."""
    try:
        if section.get(f"{field}-data"):
            return base64.b64decode(section[f"{field}-data"]).decode()
        if section.get(field):
            return (file.parent / str(section[field])).read_text()
    except (binascii.Error, UnicodeDecodeError, OSError) as error:
        raise KubeconfigError(f"kubeconfig {file}: {field}: {error}") from error
    return ""
