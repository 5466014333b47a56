"""JSON, as fast as Python can: the only module that knows which library does it."""

from typing import Any

import orjson

JSONDecodeError = orjson.JSONDecodeError


def loads(text: bytes | bytearray | str) -> Any:
    """Parse JSON text.

    Raises:
        JSONDecodeError: the text is not JSON (a ValueError).
    """
    return orjson.loads(text)


def dumps(value: object) -> bytes:
    """Compact JSON text."""
    return orjson.dumps(value)
