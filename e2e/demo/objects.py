"""The Kubernetes objects that the demo reads and writes, through the official client."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config, dynamic

from demo.errors import DemoError

FIELD_MANAGER = "tandem-demo"


def ensure_namespace(kubeconfig: Path, name: str) -> None:
    """Create the namespace, held to Pod Security `restricted`."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    namespaces = dynamic.DynamicClient(_connect(kubeconfig)).resources.get(api_version="v1", kind="Namespace")
    namespaces.server_side_apply(body=manifest, name=name, field_manager=FIELD_MANAGER)


def _connect(kubeconfig: Path) -> client.ApiClient:
    api = config.new_client_from_config(str(kubeconfig))
    api.configuration.proxy = None  # the cluster is on this machine, whatever the environment says of proxies
    return api


class Objects:
    """One namespace of one cluster."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.namespace = namespace
        api = _connect(kubeconfig)
        self._dynamic = dynamic.DynamicClient(api)
        self._core = client.CoreV1Api(api)

    def apply(self, path: Path) -> str:
        """Server-side apply the one InferenceDeployment in a file. Returns its name.

        Raises:
            DemoError: the API server refused it; the message is the server's.
        """
        return self.apply_manifest(yaml.safe_load(path.read_text()))

    def apply_manifest(self, manifest: dict[str, Any]) -> str:
        """Server-side apply one InferenceDeployment. Returns its name. Raises as `apply`."""
        name = str(manifest["metadata"]["name"])
        try:
            self._fleets().server_side_apply(
                body=manifest, name=name, namespace=self.namespace, field_manager=FIELD_MANAGER, force_conflicts=True
            )
        except client.ApiException as error:
            raise DemoError(f"the API server refused {name}: {error.body}", "mend the field that it names") from error
        return name

    def patch_spec(self, fleet: str, spec: dict[str, Any]) -> None:
        """Merge-patch the spec of a fleet."""
        self._fleets().patch(
            body={"spec": spec},
            name=fleet,
            namespace=self.namespace,
            content_type="application/merge-patch+json",
            field_manager=FIELD_MANAGER,
        )

    def fetch_fleet(self, name: str) -> dict[str, Any]:
        """One InferenceDeployment as the server has it."""
        return dict(self._fleets().get(name=name, namespace=self.namespace).to_dict())

    def fetch_pods(self, selector: str) -> list[Any]:
        """Pods by label selector, without those that are on their way out."""
        return [pod for pod in self.fetch_all_pods(selector) if pod.metadata.deletion_timestamp is None]

    def fetch_all_pods(self, selector: str) -> list[Any]:
        """Pods by label selector."""
        return list(self._core.list_namespaced_pod(self.namespace, label_selector=selector).items)

    def kill_pod(self, name: str) -> None:
        """End a pod at once, as a lost machine would."""
        self._core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)

    def delete_fleet(self, name: str) -> None:
        """Delete one InferenceDeployment; one that is not there is fine."""
        with contextlib.suppress(dynamic.exceptions.NotFoundError):
            self._fleets().delete(name=name, namespace=self.namespace)

    def delete_fleets(self) -> None:
        """Delete every InferenceDeployment of the namespace."""
        self._fleets().delete(namespace=self.namespace, label_selector="")

    def _fleets(self) -> Any:
        return self._dynamic.resources.get(api_version="tandem.dev/v1alpha1", kind="InferenceDeployment")
