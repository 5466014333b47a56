"""Kubernetes quantities: `1.5Gi`, `500m`."""

from decimal import Decimal, InvalidOperation

_FACTORS = {
    "m": Decimal("0.001"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
}


def parse_quantity(text: str) -> Decimal:
    """Value of a quantity in its base unit (cores, bytes, pieces).

    Raises:
        ValueError: not a quantity.
    """
    suffix = next((s for s in (text[-2:], text[-1:]) if s in _FACTORS), "")
    try:
        return Decimal(text[: len(text) - len(suffix)]) * _FACTORS.get(suffix, Decimal(1))
    except InvalidOperation:
        raise ValueError(
            f"{text!r} is not a quantity; write a number with an optional suffix, as 500m or 2Gi"
        ) from None


def is_same_quantity(left: object, right: object) -> bool:
    """Whether two values denote the same amount; the server rewrites 2048Mi to 2Gi."""
    try:
        return parse_quantity(str(left)) == parse_quantity(str(right))
    except ValueError:
        return False
