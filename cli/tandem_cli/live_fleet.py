"""One fleet on a live cluster, with the user's own rights. The only module that touches the Kubernetes client."""

from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from tandem_api import labels
from tandem_cli.errors import CommandError

_PLURAL = "inferencedeployments"
_TIMEOUT_S = 15


@dataclass(frozen=True)
class FleetObjects:
    """An InferenceDeployment and its ControllerRevisions, as the API server has them."""

    fleet: dict[str, Any]
    revisions: tuple[dict[str, Any], ...]


class LiveCluster:
    """The cluster of a kubeconfig.

    Raises:
        CommandError: there is no kubeconfig that can be used.
    """

    def __init__(self, kubeconfig: str | None, namespace: str | None) -> None:
        try:
            config.load_kube_config(config_file=kubeconfig)
            _, context = config.list_kube_config_contexts(config_file=kubeconfig)
        except (ConfigException, OSError) as error:
            raise CommandError(f"no cluster: {error}; give --kubeconfig, or set KUBECONFIG") from error
        self.namespace = namespace or context["context"].get("namespace") or "default"
        self._objects = client.CustomObjectsApi()
        self._apps = client.AppsV1Api()

    def fetch(self, name: str) -> FleetObjects:
        """A fleet with its history.

        Raises:
            CommandError: there is none of that name, or the cluster refuses.
        """
        place = (labels.GROUP, labels.VERSION, self.namespace, _PLURAL, name)
        fleet = self._ask(name, lambda: self._objects.get_namespaced_custom_object(*place, _request_timeout=_TIMEOUT_S))
        selector = f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE},{labels.FLEET}={name}"
        found = self._ask(
            name,
            lambda: self._apps.list_namespaced_controller_revision(
                self.namespace, label_selector=selector, _request_timeout=_TIMEOUT_S
            ),
        )
        sanitized = client.ApiClient().sanitize_for_serialization(found)["items"]
        return FleetObjects(fleet, tuple(r for r in sanitized if _owner(r) == fleet["metadata"]["uid"]))

    def pin(self, name: str, revision: str) -> None:
        """Sets spec.rollout.pin.

        Raises:
            CommandError: the cluster refuses.
        """
        place = (labels.GROUP, labels.VERSION, self.namespace, _PLURAL, name)
        body = {"spec": {"rollout": {"pin": revision}}}
        self._ask(name, lambda: self._objects.patch_namespaced_custom_object(*place, body, _request_timeout=_TIMEOUT_S))

    def _ask(self, name: str, call: Any) -> Any:
        try:
            return call()
        except ApiException as error:
            raise CommandError(_explain(error, self.namespace, name)) from error
        except urllib3.exceptions.HTTPError as error:
            raise CommandError(f"the cluster does not answer: {error}; check --kubeconfig and the network") from error


def _owner(manifest: dict[str, Any]) -> str | None:
    return next((one["uid"] for one in manifest["metadata"].get("ownerReferences") or ()), None)


def _explain(error: ApiException, namespace: str, name: str) -> str:
    if error.status == 404:
        return f"there is no InferenceDeployment {namespace}/{name}: check the name, or give --namespace"
    if error.status in (401, 403):
        return f"the cluster refuses ({error.reason}): your user needs get, list and patch there; {error.body}"
    return f"the cluster answers {error.status} {error.reason}: {error.body}"
