"""What is explained: InferenceDeployments from a file, and the cluster's objects from a dump or from the cluster."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tandem_operator.cluster import Cluster
from tandem_operator.credentials import Credentials
from tandem_operator.errors import ApiError, ConfigurationError, NotLeader
from tandem_operator.kinds import INFERENCE_DEPLOYMENT, NETWORK_POLICY, SELECTORS, WATCHED, Kind, Manifest
from tandem_operator.metrics import Metrics
from tandem_operator.store import Store

_KINDS = {kind.name: kind for kind in WATCHED}
_TOO_MANY_REQUESTS, _PATIENCE = 429, 15  # HTTP status, tries
_UNBORN = {"uid": "unborn", "generation": 1, "resourceVersion": "1"}


def read_manifests(path: Path) -> list[Manifest]:
    """Every object of a YAML file; Lists are opened.

    Raises:
        ConfigurationError: the file cannot be read, or holds something else.
    """
    try:
        documents = list(yaml.safe_load_all(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: {error}; give a file of Kubernetes manifests") from error
    return [obj for document in documents if document is not None for obj in _open(document, path)]


def _open(document: Any, path: Path) -> Iterator[Manifest]:
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise ConfigurationError(f"{path}: a document has no kind; give a file of Kubernetes manifests")
    if document["kind"].endswith("List") and isinstance(document.get("items"), list):
        for item in document["items"]:
            yield from _open(item, path)
    elif not isinstance(document.get("metadata"), dict) or not document["metadata"].get("name"):
        raise ConfigurationError(f"{path}: a {document['kind']} has no metadata.name; add it")
    else:
        yield document


def fill_store(store: Store, objects: list[Manifest], namespace: str) -> None:
    """Takes in what the operator would watch. `namespace`: of objects that name none."""
    for obj in objects:
        kind = _KINDS.get(obj["kind"])
        if kind is not None:
            store.upsert(kind, {**obj, "metadata": {**_UNBORN, "namespace": namespace, **obj["metadata"]}})


def take_in(store: Store, wanted: Manifest, namespace: str) -> Manifest:
    """The InferenceDeployment as `kubectl apply` would leave it: the live one's identity and status, the new spec."""
    metadata = wanted["metadata"]
    place = metadata.get("namespace") or namespace
    live = store.get(INFERENCE_DEPLOYMENT, place, metadata["name"])
    if live is None:
        return {**wanted, "metadata": {**_UNBORN, **metadata, "namespace": place}}
    changed = live["spec"] != wanted.get("spec")
    generation = live["metadata"].get("generation", 1) + int(changed)
    return {**live, "spec": wanted.get("spec"), "metadata": {**live["metadata"], "generation": generation}}


def read_namespaces(store: Store) -> tuple[str | None, str | None]:
    """Namespaces of the routers and of what scrapes workers, from a NetworkPolicy that the operator made."""
    for policy in store.all(NETWORK_POLICY):
        sources = [source for rule in policy["spec"].get("ingress", ()) for source in rule.get("from", ())]
        routers = [_namespace_of(source) for source in sources if "podSelector" in source]
        scrapers = [_namespace_of(source) for source in sources if "podSelector" not in source]
        return next(filter(None, routers), None), next(filter(None, scrapers), None)
    return None, None


def _namespace_of(source: Manifest) -> str | None:
    name: str | None = source.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
    return name


async def fetch_store(credentials: Credentials, store: Store, namespace: str) -> None:
    """Lists what the operator would watch in a namespace. Every write is refused before it is sent.

    Raises:
        ApiError: a list failed.
    """
    async with Cluster(credentials, Metrics(), _refuse) as cluster:
        for kind in WATCHED:
            for item in await _list(cluster, kind, namespace):
                store.upsert(kind, {**item, "kind": kind.name})


async def _list(cluster: Cluster, kind: Kind, namespace: str) -> list[Manifest]:
    """Every object of a kind. A server that asks for patience, as it does after a change of CRDs, gets some."""
    for patience in reversed(range(_PATIENCE)):
        try:
            pages = [page.items async for page in cluster.fetch_pages(kind, namespace, SELECTORS.get(kind, ""))]
            return [item for items in pages for item in items]
        except ApiError as error:
            if error.status != _TOO_MANY_REQUESTS or not patience:
                raise
            await asyncio.sleep(1)
    return []


def _refuse() -> None:
    raise NotLeader("tandem explain writes nothing")
