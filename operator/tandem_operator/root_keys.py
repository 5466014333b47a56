"""The installation's root secret: made once, at the first start of the first leader, and never by a chart."""

import base64
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from tandem_api import labels
from tandem_core import keys
from tandem_operator.cluster import Cluster
from tandem_operator.errors import ConfigurationError, Conflict, NotFound
from tandem_operator.kinds import SECRET, Manifest
from tandem_operator.resources.names import OPERATOR_MANAGER


async def ensure_root_key(
    cluster: Cluster, namespace: str, draw: Callable[[int], bytes] = secrets.token_bytes
) -> bytes:
    """The root key of this installation, made if it does not exist; the routers' Secret beside it.

    Raises:
        ConfigurationError: a Secret exists and holds something else.
    """
    found = await _fetch_or_create(
        cluster, namespace, keys.ROOT_SECRET, keys.ROOT_KEY_FILE, lambda: keys.encode_key(draw(keys.KEY_BYTES))
    )
    root = _decode(keys.ROOT_SECRET, found)
    router_key = keys.derive_router_key(root)
    held = await _fetch_or_create(
        cluster, namespace, keys.ROUTER_SECRET, keys.ROUTER_KEY_FILE, lambda: keys.encode_key(router_key)
    )
    if _decode(keys.ROUTER_SECRET, held) != router_key:
        raise ConfigurationError(
            f"Secret {namespace}/{keys.ROUTER_SECRET} does not come from {keys.ROOT_SECRET}: "
            "delete it, and it is remade"
        )
    return root


async def _fetch_or_create(cluster: Cluster, namespace: str, name: str, file: str, make: Callable[[], str]) -> str:
    try:
        secret = await cluster.fetch(SECRET, namespace, name)
    except NotFound:
        try:
            secret = await cluster.create(_build_secret(namespace, name, {file: make()}), OPERATOR_MANAGER)
        except Conflict:  # another replica was faster
            secret = await cluster.fetch(SECRET, namespace, name)
    data: Mapping[str, Any] = secret.get("data") or {}
    if file not in data:
        raise ConfigurationError(f"Secret {namespace}/{name} has no key {file}: delete it, and it is remade")
    return base64.b64decode(data[file]).decode()


def _decode(name: str, text: str) -> bytes:
    try:
        return keys.decode_key(text)
    except ValueError as error:
        raise ConfigurationError(f"Secret {name}: {error}; delete it, and it is remade") from None


def _build_secret(namespace: str, name: str, files: Mapping[str, str]) -> Manifest:
    return {
        "apiVersion": SECRET.api_version,
        "kind": SECRET.name,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {labels.MANAGED_BY: labels.MANAGED_BY_VALUE},
        },
        "type": "Opaque",
        "data": {file: base64.b64encode(text.encode()).decode() for file, text in files.items()},
    }
