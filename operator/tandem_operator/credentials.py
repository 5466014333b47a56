"""How to reach the API server: from a kubeconfig, or from inside a pod."""

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tandem_operator.errors import ConfigurationError

_SERVICE_ACCOUNT_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True)
class Credentials:
    """Address and identity. A token file is read at each use, because bound tokens are renewed in place."""

    server: str
    ca_text: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    client_certificate: str | None = None
    client_key: str | None = field(default=None, repr=False)
    insecure: bool = False
    namespace: str | None = None

    def bearer(self) -> str | None:
        """The token to send now."""
        return self.token_file.read_text().strip() if self.token_file else self.token

    def tls(self) -> ssl.SSLContext:
        """Context that trusts the cluster's CA, and carries the client certificate if there is one."""
        context = ssl.create_default_context(cadata=self.ca_text)
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.client_certificate and self.client_key:
            _load_pair(context, self.client_certificate, self.client_key)
        return context


def load_credentials(kubeconfig: str | None, environment: Mapping[str, str]) -> Credentials:
    """From the kubeconfig given, else from the pod, else from $KUBECONFIG.

    Raises:
        ConfigurationError: there is none of them, or it cannot be read.
    """
    if kubeconfig:
        return read_kubeconfig(Path(kubeconfig))
    if "KUBERNETES_SERVICE_HOST" in environment:
        return _in_cluster(environment)
    if environment.get("KUBECONFIG"):
        return read_kubeconfig(Path(environment["KUBECONFIG"]))
    raise ConfigurationError("no cluster: run in a pod, or set --kubeconfig or KUBECONFIG to a kubeconfig file")


def _in_cluster(environment: Mapping[str, str]) -> Credentials:
    place = Path(environment.get("TANDEM_SERVICEACCOUNT_DIR", _SERVICE_ACCOUNT_DIR))
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    try:
        namespace, authority = (place / "namespace").read_text().strip(), (place / "ca.crt").read_text()
    except OSError as error:
        raise ConfigurationError(f"{place}: {error.strerror}; mount the service account's token") from None
    return Credentials(f"https://{host}:{port}", authority, token_file=place / "token", namespace=namespace)


def read_kubeconfig(path: Path) -> Credentials:
    """The current context of a kubeconfig.

    Raises:
        ConfigurationError: it cannot be read, or signs in by a plugin.
    """
    try:
        document = yaml.safe_load(path.read_text())
        context = _named(document["contexts"], document["current-context"])["context"]
        cluster = _named(document["clusters"], context["cluster"])["cluster"]
        user = _named(document["users"], context["user"])["user"]
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; give the path of a kubeconfig") from None
    except (KeyError, TypeError, StopIteration, yaml.YAMLError):
        raise ConfigurationError(f"{path} is not a kubeconfig with a current context") from None
    return _from_entries(path, cluster, user, context.get("namespace"))


def _from_entries(path: Path, cluster: dict[str, Any], user: dict[str, Any], namespace: str | None) -> Credentials:
    if "exec" in user or "auth-provider" in user:
        raise ConfigurationError(f"{path} signs in by a plugin; use a token or a client certificate")
    token_file = user.get("tokenFile")
    return Credentials(
        server=cluster["server"].rstrip("/"),
        ca_text=_text(path, cluster, "certificate-authority"),
        token=user.get("token"),
        token_file=path.parent / token_file if token_file else None,
        client_certificate=_text(path, user, "client-certificate"),
        client_key=_text(path, user, "client-key"),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        namespace=namespace,
    )


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


def _text(path: Path, entry: dict[str, Any], name: str) -> str | None:
    """Content of `NAME-data`, or of the file that `NAME` points to."""
    if entry.get(f"{name}-data"):
        return base64.b64decode(entry[f"{name}-data"]).decode()
    return (path.parent / entry[name]).read_text() if entry.get(name) else None


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    # The ssl module takes a client certificate from a file only.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
        os.chmod(pair.name, 0o600)
        pair.write(f"{certificate}\n{key}\n")
        pair.flush()
        context.load_cert_chain(pair.name)
