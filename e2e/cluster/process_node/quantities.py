"""Kubernetes quantities such as 500m, 64Gi or 1e3: only what resourceFieldRef and capacity need."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{s: Decimal(1000) ** (i + 1) for i, s in enumerate(("k", "M", "G", "T", "P", "E"))},
    **{s: Decimal(1024) ** (i + 1) for i, s in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))},
}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([A-Za-z]*)")


class QuantityError(ValueError):
    """Text that is no Kubernetes quantity."""


def parse_quantity(text: str) -> Decimal:
    """The number that a quantity stands for. Raises QuantityError."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match.group(2) not in _SUFFIXES:
        raise QuantityError(f"{text!r} is not a quantity: write a number such as 2, 500m or 64Gi")
    return Decimal(match.group(1)) * _SUFFIXES[match.group(2)]


def divide_rounding_up(quantity: str, divisor: str) -> int:
    """Quantity in units of divisor, rounded up as the downward API does. Raises QuantityError."""
    unit = parse_quantity(divisor)
    if unit == 0:
        unit = Decimal(1)  # the API server writes an omitted divisor as "0"
    return int((parse_quantity(quantity) / unit).to_integral_value(ROUND_CEILING))
