"""Under which names clients find fleets and their adapters. Pure."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from tandem_router.errors import ModelNotFoundError
from tandem_router.snapshot import FleetSpec


class Named(Protocol):
    """A fleet, as far as names go."""

    spec: FleetSpec

    @property
    def key(self) -> str:
        """namespace/name."""


F = TypeVar("F", bound=Named)


def served_names(fleets: Iterable[F]) -> dict[str, F]:
    """The oldest fleet holds its plain name; `<namespace>/<name>` always works.

    Adapters are named likewise, after the models: an adapter never takes a model's name.
    """
    names: dict[str, F] = {}
    by_age = sorted(fleets, key=lambda fleet: (fleet.spec.created, fleet.key))
    models = [(fleet, fleet.spec.served_name) for fleet in by_age]
    adapters = [(fleet, adapter) for fleet in by_age for adapter in fleet.spec.adapters]
    for pairs in (models, adapters):
        for fleet, name in pairs:
            names.setdefault(name, fleet)
        for fleet, name in pairs:
            names.setdefault(f"{fleet.spec.namespace}/{name}", fleet)
    return names


def model_not_found(model: str) -> ModelNotFoundError:
    """The answer for a model that does not exist, or that the caller may not know of."""
    shown = model if len(model) <= 100 else model[:100] + "…"
    message = f"The model `{shown}` does not exist: name one of GET /v1/models."
    return ModelNotFoundError(message, code="model_not_found", param="model")
