"""Ids of requests as engines know them."""

import secrets
from collections.abc import Iterator
from itertools import count


def request_ids() -> Iterator[str]:
    """Ids that no other router, and no other start of this one, gives."""
    prefix = secrets.token_hex(10)
    return (f"{prefix}{number:012x}" for number in count())
