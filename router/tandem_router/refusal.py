"""Tells a client that its request failed before anything was sent."""

from tandem_router.apis.fault_shapes import OPENAI, FaultShape
from tandem_router.errors import MethodNotAllowedError, RequestError
from tandem_router.headers import REQUEST_ID
from tandem_router.http1.messages import Headers
from tandem_router.http1.writer import ResponseWriter

JSON_TYPE = (b"Content-Type", b"application/json")


def send_error(
    writer: ResponseWriter, error: RequestError, request_id: bytes | None, faults: FaultShape = OPENAI
) -> None:
    """Answer with `error` in the shape that the API's clients read."""
    headers: Headers = [JSON_TYPE, *error.headers]
    if request_id is not None:
        headers.append((REQUEST_ID, request_id))
    if error.retry_after_s is not None:
        headers.append((b"Retry-After", b"%d" % error.retry_after_s))
    if isinstance(error, MethodNotAllowedError):
        headers.append((b"Allow", error.allow.encode()))
    writer.send(error.status, headers, faults.build_body(error))
