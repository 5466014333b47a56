"""The parts that a size is made of, kept so that a decision can be explained."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Term:
    """One named number on the way to a size."""

    name: str
    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Target:
    """Workers that one pool needs, before limits.

    Attributes:
        workers: at least what the largest term says.
        own: without the demand of other regions.
    """

    workers: int
    terms: tuple[Term, ...]
    own: int


def told_help(helped: float, unit: str) -> tuple[Term, ...]:
    """The part of a size that other regions' demand makes; no term when there is none."""
    return (Term("helped", helped, unit),) if helped > 0 else ()
