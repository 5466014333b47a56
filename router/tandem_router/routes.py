"""What a listener answers: a table of paths, and one place where every error becomes an answer."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tandem_router.apis.served import faults_at
from tandem_router.errors import MethodNotAllowedError, PathNotFoundError, RequestError
from tandem_router.headers import REQUEST_ID
from tandem_router.http1.messages import Request
from tandem_router.http1.writer import ResponseWriter
from tandem_router.metrics import Metrics
from tandem_router.refusal import send_error

LOG = logging.getLogger(__name__)

Route = Callable[[Request, ResponseWriter], Awaitable[None]]
READ = ("GET", "HEAD")
CREATE = ("POST",)


class InternalError(RequestError):
    """A fault of the router itself."""


@dataclass
class Routes:
    """Paths of one listener. A path that ends with `/` stands for all below it."""

    metrics: Metrics
    table: dict[str, tuple[tuple[str, ...], Route]] = field(default_factory=dict)

    def add(self, methods: tuple[str, ...], path: str, route: Route) -> None:
        """Serve `path`."""
        self.table[path] = (methods, route)

    async def handle(self, request: Request, writer: ResponseWriter) -> None:
        """Answer one request, whatever happens."""
        try:
            route = find_route(self.table, request.method.decode(), request.path)
            await route(request, writer)
        except RequestError as error:
            self._refuse(request, writer, error)
        except Exception:
            # A fault of ours: the client gets a typed answer and the log gets the traceback.
            LOG.exception("request failed", extra={"path": request.path[:200]})
            self._refuse(request, writer, InternalError("The router failed; its log says why.", code="internal"))

    def _refuse(self, request: Request, writer: ResponseWriter, error: RequestError) -> None:
        self.metrics.refused[str(error.status)] += 1
        if not writer.is_started:
            send_error(writer, error, request.header(REQUEST_ID), faults_at(request.path))
        elif not writer.is_ended:
            writer.break_off()


def find_route(table: Mapping[str, tuple[tuple[str, ...], Route]], method: str, path: str) -> Route:
    """The route of `path`.

    Raises:
        PathNotFoundError: there is none.
        MethodNotAllowedError: there is, for other methods.
    """
    found = table.get(path) or next((row for prefix, row in table.items() if is_below(path, prefix)), None)
    if found is None:
        raise PathNotFoundError(f"There is nothing at {path[:100]}.", code="path_not_found")
    methods, route = found
    if method not in methods:
        allow = ", ".join(methods)
        raise MethodNotAllowedError(f"{path} takes {allow} only.", allow=allow)
    return route


def is_below(path: str, prefix: str) -> bool:
    """`prefix` ends with `/`, and `path` is longer."""
    return prefix.endswith("/") and path.startswith(prefix) and path != prefix
