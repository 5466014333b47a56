"""The internal listener: what the operator reads. Every request needs the bearer token."""

from collections.abc import Callable
from dataclasses import dataclass

from tandem_api.router import FLEETS_PATH, FleetReport, RouterReport
from tandem_router import jsontext
from tandem_router.errors import UnauthorizedError
from tandem_router.fleets import Catalog, Fleet
from tandem_router.gateway.service import Gateway
from tandem_router.http1.messages import Request
from tandem_router.http1.writer import ResponseWriter
from tandem_router.keys import KeyRing
from tandem_router.metrics import Metrics
from tandem_router.refusal import JSON_TYPE
from tandem_router.routes import READ, Routes

USAGE_PATH = "/internal/v1/usage"


@dataclass
class InternalListener:
    """What the internal listener answers from."""

    catalog: Catalog
    keys: KeyRing
    metrics: Metrics
    replica: str
    clock: Callable[[], float]
    gateway: Gateway

    def routes(self) -> Routes:
        """The table of paths."""
        routes = Routes(self.metrics)
        routes.add(READ, FLEETS_PATH, self._fleets)
        routes.add(READ, USAGE_PATH, self._usage)
        return routes

    async def _fleets(self, request: Request, writer: ResponseWriter) -> None:
        self._require_token(request)
        report = build_report(self.catalog, self.replica, self.clock())
        writer.send(200, [JSON_TYPE], report.model_dump_json().encode())

    async def _usage(self, request: Request, writer: ResponseWriter) -> None:
        self._require_token(request)
        writer.send(200, [JSON_TYPE], jsontext.dumps({"replica": self.replica, **self.gateway.usage()}))

    def _require_token(self, request: Request) -> None:
        scheme, _, shown = (request.header(b"authorization") or b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not self.keys.is_internal_token(shown.strip()):
            raise UnauthorizedError("The bearer token is missing or wrong.", code="unauthorized")


def build_report(catalog: Catalog, replica: str, now_s: float) -> RouterReport:
    """All fleets as this replica sees them."""
    fleets = sorted(catalog.fleets.values(), key=lambda fleet: fleet.key)
    return RouterReport(
        replica=replica,
        synced=catalog.is_synced,
        fleets=tuple(build_fleet_report(catalog, fleet, now_s) for fleet in fleets),
    )


def build_fleet_report(catalog: Catalog, fleet: Fleet, now_s: float) -> FleetReport:
    """One fleet as this replica sees it."""
    workers: dict[str, int] = {}
    for worker in fleet.usable(now_s):
        workers[worker.spec.role] = workers.get(worker.spec.role, 0) + 1
    holds_name = catalog.holds_name(fleet)
    kv = fleet.kv_totals()
    return FleetReport(
        namespace=fleet.spec.namespace,
        name=fleet.spec.name,
        uid=fleet.spec.uid,
        generation=fleet.spec.generation,
        served_name=fleet.spec.served_name,
        serving=holds_name and fleet.can_serve(now_s),
        name_conflict=not holds_name,
        workers=workers,
        kv=kv,
        recent=fleet.recent.observe(
            now_s, (fleet.remote_prefills, fleet.local_prefills, kv.bytes_received, kv.failures)
        ),
    )
