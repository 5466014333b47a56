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
    """Workers that one pool needs, before limits; `workers` is at least what the largest term says."""

    workers: int
    terms: tuple[Term, ...]
