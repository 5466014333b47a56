"""Routes of the clients' listener."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tandem_router import exposition, jsontext
from tandem_router.apis.served import BY_PATH
from tandem_router.completion import CompletionService
from tandem_router.errors import UnavailableError
from tandem_router.fleets import Catalog, Fleet
from tandem_router.http1.messages import Request
from tandem_router.http1.writer import ResponseWriter
from tandem_router.metrics import Metrics
from tandem_router.refusal import JSON_TYPE
from tandem_router.routes import CREATE, READ, Routes
from tandem_router.served_names import model_not_found

MODELS_PATH = "/v1/models"
TEXT_TYPE = (b"Content-Type", b"text/plain; charset=utf-8")


@dataclass
class PublicListener:
    """What the clients' listener answers from."""

    completions: CompletionService
    catalog: Catalog
    metrics: Metrics
    clock: Callable[[], float]
    is_draining: Callable[[], bool]

    def routes(self) -> Routes:
        """The table of paths."""
        routes = Routes(self.metrics)
        for path in BY_PATH:
            routes.add(CREATE, path, self.completions.handle)
        routes.add(READ, MODELS_PATH, self._models)
        routes.add(READ, MODELS_PATH + "/", self._model)
        routes.add(READ, "/livez", self._live)
        routes.add(READ, "/readyz", self._ready)
        routes.add(READ, "/metrics", self._metrics)
        return routes

    async def _models(self, request: Request, writer: ResponseWriter) -> None:
        now_s, principal = self.clock(), self.completions.gateway.authenticate(request.headers)
        names = listed_names(self.catalog).items()
        data = [describe(name, fleet, now_s) for name, fleet in names if principal.may_use(name)]
        writer.send(200, [JSON_TYPE], jsontext.dumps({"object": "list", "data": data}))

    async def _model(self, request: Request, writer: ResponseWriter) -> None:
        name = request.path.removeprefix(MODELS_PATH + "/")
        if not self.completions.gateway.authenticate(request.headers).may_use(name):
            raise model_not_found(name)
        model = describe(name, self.catalog.resolve(name), self.clock())
        writer.send(200, [JSON_TYPE], jsontext.dumps(model))

    async def _live(self, request: Request, writer: ResponseWriter) -> None:
        writer.send(200, [TEXT_TYPE], b"ok\n")

    async def _ready(self, request: Request, writer: ResponseWriter) -> None:
        """Never not-ready because of one fleet: readiness per model is in /v1/models."""
        if self.is_draining():
            raise UnavailableError("This router is draining.", code="draining")
        if not self.catalog.is_synced:
            raise UnavailableError("Discovery has not finished its first pass.", code="not_synced")
        writer.send(200, [TEXT_TYPE], b"ok\n")

    async def _metrics(self, request: Request, writer: ResponseWriter) -> None:
        text = exposition.render(
            self.metrics, self.catalog, self.clock(), self.completions.gateway, self.completions.border
        )
        writer.send(200, [(b"Content-Type", exposition.CONTENT_TYPE)], text)


def listed_names(catalog: Catalog) -> dict[str, Fleet]:
    """One name per model and adapter: the plain one if its fleet holds it, else the one with its namespace."""
    names = {}
    for fleet in catalog.fleets.values():
        for name in (fleet.spec.served_name, *fleet.spec.adapters):
            is_held = catalog.names.get(name) is fleet
            names[name if is_held else f"{fleet.spec.namespace}/{name}"] = fleet
    return dict(sorted(names.items()))


def describe(name: str, fleet: Fleet, now_s: float) -> dict[str, Any]:
    """A model in OpenAI's shape; `parent`, of adapters only, is vLLM's, `ready` and `fleet` are ours."""
    parent = {"parent": fleet.spec.served_name} if fleet.spec.adapter_of(name) else {}
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "tandem",
        **parent,
        "ready": fleet.can_serve(now_s),
        "fleet": fleet.key,
    }
