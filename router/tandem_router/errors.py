"""What can go wrong with one request, each with its HTTP status, in the error shape that OpenAI's clients read."""

from tandem_router import jsontext
from tandem_router.http1.messages import Headers


class RequestError(Exception):
    """An answer other than the one asked for.

    Attributes:
        status: HTTP status.
        kind: value of `error.type`.
        code: value of `error.code`; stable, for programs.
        message: one sentence for people: what is wrong, and the fix.
        param: the field of the request that is at fault, if one is.
        retry_after_s: when asking again may succeed.
        headers: of the answer, beside those that every error has.
    """

    status = 500
    kind = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = headers or []

    def to_json(self) -> bytes:
        """Body of the answer: `{"error": {"message", "type", "param", "code"}}`."""
        return jsontext.dumps({"error": self.to_fields()})

    def to_fields(self) -> dict[str, str | None]:
        """`message`, `type`, `param` and `code`."""
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}


class BadRequestError(RequestError):
    """The client must change the request."""

    status = 400
    kind = "invalid_request_error"


class ModelNotFoundError(BadRequestError):
    """No fleet serves the model asked for."""

    status = 404


class PathNotFoundError(BadRequestError):
    """No such route."""

    status = 404


class MethodNotAllowedError(BadRequestError):
    """The route exists, the method does not."""

    status = 405

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message, code="method_not_allowed")
        self.allow = allow


class BodyTooLargeError(BadRequestError):
    """The request body is over the limit."""

    status = 413


class MediaTypeError(BadRequestError):
    """The body is not declared as JSON: browsers send such requests across sites without asking."""

    status = 415


class HeadersTooLargeError(BadRequestError):
    """The request line and headers are over the limit."""

    status = 431


class RequestTooSlowError(BadRequestError):
    """The request did not arrive in time."""

    status = 408


class UnauthorizedError(RequestError):
    """The credentials are missing or wrong."""

    status = 401
    kind = "authentication_error"


class RegionForbiddenError(RequestError):
    """No region that this installation knows may serve the request."""

    status = 403
    kind = "permission_error"


class RateLimitedError(RequestError):
    """A limit of the caller's tenant is reached; others are served."""

    status = 429
    kind = "rate_limit_error"


class OverloadedError(RequestError):
    """Workers exist, and none could start the request in time."""

    status = 429
    kind = "overloaded_error"


class UnavailableError(RequestError):
    """Nothing can serve the request now."""

    status = 503
    kind = "service_unavailable_error"


class UpstreamFailedError(RequestError):
    """Workers were tried and failed before the first byte."""

    status = 502
    kind = "upstream_error"


class DeadlineExceededError(RequestError):
    """The request's end-to-end deadline passed."""

    status = 504
    kind = "timeout_error"


class StreamBrokenError(RequestError):
    """The worker was lost after bytes had been sent to the client."""

    status = 200  # already sent; what the client sees is the error event and a broken end
    kind = "upstream_error"
