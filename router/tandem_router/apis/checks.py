"""Checks that fields of a request must pass before the router may act on them."""

from tandem_router.apis.shape import Check
from tandem_router.errors import BadRequestError

REFUSED = {
    "kv_transfer_params": "Tandem moves the KV cache itself",
    "cache_salt": "Tandem sets it per tenant",
    "priority": "Tandem sets it per tenant",
    "data_parallel_rank": "Tandem chooses the worker",
    "request_id": "set the header x-request-id instead",
}


def refuse(key: str, _: object) -> None:
    """Only Tandem may set it."""
    why = REFUSED[key]
    raise BadRequestError(f"`{key}` may not be set by clients: {why}. Remove it.", code="field_refused", param=key)


# The engine coerces "2" to 2 and "true" to true; what we cannot read the same way we refuse.
def require_integer(key: str, value: object) -> None:
    """A whole number or null."""
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if value is not None and (isinstance(value, bool) or not is_whole):
        raise BadRequestError(f"`{key}` must be an integer.", code="invalid_type", param=key)


def require_boolean(key: str, value: object) -> None:
    """True, false or null."""
    if not isinstance(value, bool | None):
        raise BadRequestError(f"`{key}` must be true or false.", code="invalid_type", param=key)


def require_object(key: str, value: object) -> None:
    """An object or null."""
    if not isinstance(value, dict | None):
        raise BadRequestError(f"`{key}` must be an object.", code="invalid_type", param=key)


def build_checks(*, integers: tuple[str, ...] = (), booleans: tuple[str, ...] = ("stream",)) -> dict[str, Check]:
    """What every API refuses, and the fields whose type matters."""
    return {
        **dict.fromkeys(REFUSED, refuse),
        **dict.fromkeys(integers, require_integer),
        **dict.fromkeys(booleans, require_boolean),
    }
