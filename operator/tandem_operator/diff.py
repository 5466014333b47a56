"""Does the live object already say what was rendered? Only rendered fields count: what others set is theirs.

Lists that server-side apply merges by a key are compared by that key, so that a foreign entry is no difference; all
other lists are compared whole.
"""

from collections.abc import Iterator
from typing import Any

from tandem_operator.kinds import Manifest
from tandem_operator.quantities import is_same_quantity

_QUANTITY_PARENTS = frozenset(("limits", "requests"))
_QUANTITY_FIELDS = frozenset(("sizeLimit",))
_LIST_KEYS = {
    "ownerReferences": "uid",
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "ports": "name",  # of containers and Services; those of NetworkPolicies have no names, and are compared whole
}


def first_difference(rendered: Manifest, live: Manifest) -> str | None:
    """Path of the first rendered field that the live object holds otherwise, or None when nothing needs a write."""
    return next(_differences(rendered, live, ()), None)


def _differences(rendered: Any, live: Any, path: tuple[str, ...]) -> Iterator[str]:
    if _is_empty(rendered) and _is_empty(live):
        return
    if isinstance(rendered, dict) and isinstance(live, dict):
        for name, value in rendered.items():
            yield from _differences(value, live.get(name), (*path, name))
    elif isinstance(rendered, list) and isinstance(live, list):
        yield from _list_differences(rendered, live, path)
    elif not _is_same_scalar(rendered, live, path):
        yield ".".join(path)


def _list_differences(rendered: list[Any], live: list[Any], path: tuple[str, ...]) -> Iterator[str]:
    key = _LIST_KEYS.get(path[-1])
    if key and all(key in want for want in rendered):
        by_key = {item.get(key): item for item in live}
        for want in rendered:
            yield from _differences(want, by_key.get(want[key]), (*path, want[key]))
    elif len(rendered) != len(live):
        yield ".".join(path)
    else:
        for index, (want, have) in enumerate(zip(rendered, live, strict=True)):
            yield from _differences(want, have, (*path, str(index)))


def _is_empty(value: Any) -> bool:
    # The server drops empty lists and objects of some fields and keeps them in others.
    return value is None or value == {} or value == []


def _is_same_scalar(rendered: Any, live: Any, path: tuple[str, ...]) -> bool:
    if rendered == live and isinstance(rendered, bool) == isinstance(live, bool):
        return True
    is_quantity = path[-1:] and (path[-1] in _QUANTITY_FIELDS or (path[-2:-1] and path[-2] in _QUANTITY_PARENTS))
    return bool(is_quantity) and live is not None and is_same_quantity(rendered, live)
