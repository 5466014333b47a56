"""A container's environment and command line, as Kubernetes defines them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.process_node.fields import PodFields
from cluster.process_node.objects import JsonObject

_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")


class ConfigurationError(ValueError):
    """A ConfigMap, Secret or key that a container needs and that does not exist (yet)."""


@dataclass(frozen=True)
class SourceKey:
    """Names one ConfigMap or Secret of the pod's namespace."""

    kind: str
    name: str


Sources = Mapping[SourceKey, Mapping[str, str] | None]
"""Data of each object that a container names; None for one that does not exist."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Kubernetes' own substitution: $(NAME) if NAME is defined, else verbatim; $$ is a dollar sign."""

    def replace(found: re.Match[str]) -> str:
        return "$" if found.group() == "$$" else variables.get(found.group(1), found.group())

    return _REFERENCE.sub(replace, text)


def named_sources(container: JsonObject) -> list[SourceKey]:
    """Every ConfigMap and Secret that env or envFrom of this container names, each once."""
    found = [key for entry in container.get("envFrom") or [] if (key := _env_from_source(entry))]
    for variable in container.get("env") or []:
        reference = variable.get("valueFrom") or {}
        found += [SourceKey(kind, reference[field]["name"]) for field, kind in _KEY_REFS if field in reference]
    return list(dict.fromkeys(found))


def build_environment(
    container: JsonObject, sources: Sources, fields: PodFields, base: Mapping[str, str]
) -> dict[str, str]:
    """The container's own variables, later ones seeing earlier ones and `base` in $(NAME).

    Raises ConfigurationError, FieldError, QuantityError.
    """
    own: dict[str, str] = {}
    for entry in container.get("envFrom") or []:
        own |= _env_from(entry, sources)
    for variable in container.get("env") or []:
        value = _value(container, variable, sources, fields, {**base, **own})
        if value is not None:
            own[variable["name"]] = value
    return own


def expand_all(texts: Iterable[str], variables: Mapping[str, str]) -> list[str]:
    return [expand(text, variables) for text in texts]


_KEY_REFS = (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret"))
_ENV_FROM = (("configMapRef", "ConfigMap"), ("secretRef", "Secret"))


def _env_from_source(entry: JsonObject) -> SourceKey | None:
    for field, kind in _ENV_FROM:
        if field in entry:
            return SourceKey(kind, entry[field]["name"])
    return None


def _env_from(entry: JsonObject, sources: Sources) -> dict[str, str]:
    source = _env_from_source(entry)
    if source is None:
        return {}
    reference = entry.get("configMapRef") or entry["secretRef"]
    data = sources.get(source)
    if data is None:
        if reference.get("optional"):
            return {}
        raise ConfigurationError(f'{source.kind.lower()} "{source.name}" not found')
    prefix = entry.get("prefix", "")
    return {prefix + key: value for key, value in data.items()}


def _value(
    container: JsonObject,
    variable: JsonObject,
    sources: Sources,
    fields: PodFields,
    known: Mapping[str, str],
) -> str | None:
    reference = variable.get("valueFrom")
    if not reference:
        return expand(variable.get("value") or "", known)
    if "fieldRef" in reference:
        return fields.field(reference["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in reference:
        return fields.resource(reference["resourceFieldRef"], container["name"])
    return _referenced_key(variable["name"], reference, sources)


def _referenced_key(variable: str, reference: JsonObject, sources: Sources) -> str | None:
    for field, kind in _KEY_REFS:
        if field in reference:
            return _key_value(SourceKey(kind, reference[field]["name"]), reference[field], sources)
    raise ConfigurationError(
        f"env {variable!r}: valueFrom {', '.join(reference)} is not supported by the process node; use "
        "fieldRef, resourceFieldRef, configMapKeyRef or secretKeyRef"
    )


def _key_value(source: SourceKey, reference: JsonObject, sources: Sources) -> str | None:
    data = sources.get(source)
    if data is not None and reference["key"] in data:
        return data[reference["key"]]
    if reference.get("optional"):
        return None
    kind = source.kind.lower()
    if data is None:
        raise ConfigurationError(f'{kind} "{source.name}" not found')
    raise ConfigurationError(f"couldn't find key {reference['key']} in {kind} {source.name}")
