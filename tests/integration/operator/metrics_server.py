"""An external-metrics API server of the test's own, behind a Service that is a name for this machine."""

from __future__ import annotations

import datetime
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cluster.api import Cluster

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
METRIC = "queued-tokens"


class MetricsServer(http.server.ThreadingHTTPServer):
    """Answers discovery, and the one metric with `value`."""

    daemon_threads = True
    value = 0

    def describe(self, path: str) -> dict[str, Any]:
        """What is at a path of the API."""
        if path.endswith(METRIC):
            item = {"metricName": METRIC, "metricLabels": {}, "timestamp": _now().isoformat(), "value": str(self.value)}
            return {
                "kind": "ExternalMetricValueList",
                "apiVersion": f"{GROUP}/{VERSION}",
                "metadata": {},
                "items": [item],
            }
        resource = {
            "name": METRIC,
            "singularName": "",
            "namespaced": True,
            "kind": "ExternalMetricValueList",
            "verbs": ["get"],
        }
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{GROUP}/{VERSION}",
            "resources": [resource],
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: MetricsServer

    def do_GET(self) -> None:
        body = json.dumps(self.server.describe(self.path.partition("?")[0])).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def serve_metrics(cluster: Cluster, namespace: str, folder: Path) -> Iterator[MetricsServer]:
    """Registered with the cluster's API server while the block runs."""
    server = MetricsServer(("127.0.0.1", 0), _Handler)
    server.socket = build_tls(folder).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(build_objects(namespace, server.server_port)))
        yield server
    finally:
        cluster.kubectl("delete", "apiservice", f"{VERSION}.{GROUP}", "--ignore-not-found")
        server.shutdown()
        server.server_close()
        thread.join(5)


def build_objects(namespace: str, port: int) -> list[dict[str, Any]]:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "metrics", "namespace": namespace},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    }
    registration = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{VERSION}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "version": VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": "metrics", "namespace": namespace, "port": port},
        },
    }
    return [service, registration]


def build_tls(folder: Path) -> ssl.SSLContext:
    """A certificate that nobody checks."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "metrics")])
    until = _now() + datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    certificate = builder.serial_number(1).not_valid_before(_now()).not_valid_after(until).sign(key, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pair = folder / "metrics.pem"
    encoding = serialization.Encoding.PEM
    pair.write_bytes(key.private_bytes(encoding, *form) + certificate.public_bytes(encoding))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    return context


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
