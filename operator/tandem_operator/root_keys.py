"""The installation's root secret: made at the first start of the first leader, and never by a chart.

Whoever rotates writes `root.previous`, see docs/operations.md; the routers' Secret beside it always follows.
"""

import base64
import secrets
from collections.abc import Callable, Mapping

from tandem_api import labels
from tandem_core import keys
from tandem_core.keys import RootKeys
from tandem_operator.cluster import Cluster
from tandem_operator.errors import ConfigurationError, Conflict, NotFound
from tandem_operator.kinds import SECRET, Manifest
from tandem_operator.resources.names import OPERATOR_MANAGER

Draw = Callable[[int], bytes]


async def ensure_root_keys(
    cluster: Cluster, namespace: str, known: RootKeys | None = None, draw: Draw = secrets.token_bytes
) -> RootKeys:
    """The root keys of this installation, made if they do not exist; the routers' Secret is brought to them.

    Args:
        known: those of the last time. Somebody who deletes the Secret wants another key: the old one stays accepted.

    Raises:
        ConfigurationError: the Secret exists and holds something else.
    """
    found = await _fetch(cluster, namespace, keys.ROOT_SECRET)
    if found is None:
        found = await _create_root(cluster, namespace, known, draw)
    roots = read_root_keys(found)
    await _apply_router_key(cluster, namespace, roots)
    return roots


def read_root_keys(secret: Manifest) -> RootKeys:
    """The keys in Secret `tandem-root`.

    Raises:
        ConfigurationError: naming what is wrong with it, and the fix.
    """
    files = _read_files(secret)
    if not files.get(keys.ROOT_KEY_FILE):
        raise ConfigurationError(f"Secret {keys.ROOT_SECRET} has no {keys.ROOT_KEY_FILE}: delete it, and it is remade")
    previous = files.get(keys.ROOT_PREVIOUS_FILE)
    return RootKeys(
        _decode(keys.ROOT_KEY_FILE, files[keys.ROOT_KEY_FILE], "delete the Secret, and it is remade"),
        _decode(keys.ROOT_PREVIOUS_FILE, previous, "remove this entry") if previous else None,
    )


def build_router_files(roots: RootKeys) -> dict[str, str]:
    """What the routers mount: their key, and the one that is accepted too; empty text when there is none."""
    previous = keys.encode_key(keys.derive_router_key(roots.previous)) if roots.previous else ""
    return {
        keys.ROUTER_KEY_FILE: keys.encode_key(keys.derive_router_key(roots.current)),
        keys.ROUTER_PREVIOUS_FILE: previous,
    }


async def _fetch(cluster: Cluster, namespace: str, name: str) -> Manifest | None:
    try:
        return await cluster.fetch(SECRET, namespace, name)
    except NotFound:
        return None


async def _create_root(cluster: Cluster, namespace: str, known: RootKeys | None, draw: Draw) -> Manifest:
    files = {keys.ROOT_KEY_FILE: keys.encode_key(draw(keys.KEY_BYTES))}
    if known is not None:
        files[keys.ROOT_PREVIOUS_FILE] = keys.encode_key(known.current)
    try:
        return await cluster.create(_build_secret(namespace, keys.ROOT_SECRET, files), OPERATOR_MANAGER)
    except Conflict:  # another replica was faster
        return await cluster.fetch(SECRET, namespace, keys.ROOT_SECRET)


async def _apply_router_key(cluster: Cluster, namespace: str, roots: RootKeys) -> None:
    wanted = build_router_files(roots)
    live = await _fetch(cluster, namespace, keys.ROUTER_SECRET)
    if live is None or _read_files(live) != wanted:
        secret = _build_secret(namespace, keys.ROUTER_SECRET, wanted)
        await cluster.apply(secret, OPERATOR_MANAGER, uid=live["metadata"]["uid"] if live else None)


def _read_files(secret: Manifest) -> dict[str, str]:
    data: Mapping[str, str] = secret.get("data") or {}
    return {name: base64.b64decode(text).decode(errors="replace") for name, text in data.items()}


def _decode(file: str, text: str, fix: str) -> bytes:
    try:
        return keys.decode_key(text)
    except ValueError as error:
        raise ConfigurationError(f"Secret {keys.ROOT_SECRET}, {file}: {error}; {fix}") from None


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
