"""The internal listener: what the operator reads. Every request needs the bearer token."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from tandem_api.regions import REGIONS_PATH
from tandem_api.router import DEMAND_PATH, FLEETS_PATH, FleetReport, RouterReport, WorkerLoad
from tandem_router import jsontext
from tandem_router.decision_log import DecisionLog
from tandem_router.demand.levels import build_levels
from tandem_router.demand.recorder import DemandRecorder
from tandem_router.digests.mesh import DigestMesh
from tandem_router.digests.messages import DIGESTS_PATH
from tandem_router.errors import BadRequestError, ModelNotFoundError, PathNotFoundError, UnauthorizedError
from tandem_router.fleets import Catalog, Fleet
from tandem_router.gateway.service import Gateway
from tandem_router.http1.messages import Request
from tandem_router.http1.writer import ResponseWriter
from tandem_router.keys import KeyRing
from tandem_router.metrics import Metrics
from tandem_router.refusal import JSON_TYPE
from tandem_router.regions.endpoints import RegionEndpoints
from tandem_router.routes import CREATE, READ, Routes

USAGE_PATH = "/internal/v1/usage"
DECISIONS_PATH = "/internal/v1/decisions"
DECISIONS_SHOWN = 50
PEERS_PATH = "/internal/v1/peers"


@dataclass
class InternalListener:
    """What the internal listener answers from."""

    catalog: Catalog
    keys: KeyRing
    metrics: Metrics
    replica: str
    clock: Callable[[], float]
    gateway: Gateway
    demand: DemandRecorder
    decisions: DecisionLog
    mesh: DigestMesh
    regions: RegionEndpoints | None = None

    def routes(self) -> Routes:
        """The table of paths."""
        routes = Routes(self.metrics)
        routes.add(READ, FLEETS_PATH, self._fleets)
        routes.add(READ, USAGE_PATH, self._usage)
        routes.add(READ, DEMAND_PATH, self._demand)
        routes.add(READ, DECISIONS_PATH, self._decisions)
        routes.add(CREATE, DIGESTS_PATH, self._digest)
        routes.add(READ, PEERS_PATH, self._peers)
        routes.add(READ, REGIONS_PATH, self._regions)
        if self.regions is not None:
            self.regions.add_to(routes)
        return routes

    async def _fleets(self, request: Request, writer: ResponseWriter) -> None:
        self._require_token(request)
        report = build_report(self.catalog, self.replica, self.clock())
        writer.send(200, [JSON_TYPE], report.model_dump_json().encode())

    async def _usage(self, request: Request, writer: ResponseWriter) -> None:
        self._require_token(request)
        writer.send(200, [JSON_TYPE], jsontext.dumps({"replica": self.replica, **self.gateway.usage()}))

    async def _demand(self, request: Request, writer: ResponseWriter) -> None:
        self._require_token(request)
        options = parse_qs(request.query.decode("latin-1"))
        fleet = self._named_fleet(options)
        levels = [build_levels(one, self.demand) for one in self.catalog.fleets.values()]
        only = None if fleet is None else fleet.spec.uid
        answer = self.demand.answer(self.replica, parse_whole(options, "cursor", 0), levels, only)
        if self.regions is not None:
            self.regions.border.note_operator()
            answer["regions"] = self.regions.border.words()
        writer.send(200, [JSON_TYPE], jsontext.dumps(answer))

    async def _decisions(self, request: Request, writer: ResponseWriter) -> None:
        self._require_token(request)
        options = parse_qs(request.query.decode("latin-1"))
        fleet = self._named_fleet(options)
        number = parse_whole(options, "number", 0) or None
        found = self.decisions.newest(fleet.key if fleet is not None else None, number, DECISIONS_SHOWN)
        writer.send(200, [JSON_TYPE], jsontext.dumps({"replica": self.replica, "decisions": found}))

    async def _digest(self, request: Request, writer: ResponseWriter) -> None:
        self._require_token(request)
        self.mesh.receive(request.body)
        writer.send(200, [JSON_TYPE], b"{}")

    async def _peers(self, request: Request, writer: ResponseWriter) -> None:
        self._require_token(request)
        writer.send(200, [JSON_TYPE], jsontext.dumps(self.mesh.replica.describe(self.clock())))

    async def _regions(self, request: Request, writer: ResponseWriter) -> None:
        self._require_token(request)
        if self.regions is None:
            raise PathNotFoundError("This router knows no regions: set --region.", code="regions_off")
        writer.send(200, [JSON_TYPE], jsontext.dumps({"replica": self.replica, **self.regions.border.describe()}))

    def _named_fleet(self, options: Mapping[str, list[str]]) -> Fleet | None:
        """The fleet of `?fleet=namespace/name`, None without it.

        Raises:
            ModelNotFoundError: there is none of this name.
        """
        name = options.get("fleet", [None])[0]
        if name is None:
            return None
        for fleet in self.catalog.fleets.values():
            if fleet.key == name:
                return fleet
        raise ModelNotFoundError("There is no such fleet: give fleet=namespace/name.", code="fleet_not_found")

    def _require_token(self, request: Request) -> None:
        scheme, _, shown = (request.header(b"authorization") or b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not self.keys.is_internal_token(shown.strip()):
            raise UnauthorizedError("The bearer token is missing or wrong.", code="unauthorized")


def parse_whole(options: Mapping[str, list[str]], name: str, default: int) -> int:
    """A whole number of a query.

    Raises:
        BadRequestError: it is none.
    """
    text = options.get(name, [str(default)])[0]
    if not text.lstrip("-").isascii() or not text.lstrip("-").isdigit() or len(text) > 18:
        raise BadRequestError(f"{name} must be a whole number.", code="invalid_query", param=name)
    return int(text)


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
        kv_fallbacks=fleet.kv_fallbacks,
        kv_edges=fleet.kv_edges,
        recent=fleet.recent.observe(
            now_s, (fleet.remote_prefills, fleet.local_prefills, kv.bytes_received, kv.failures)
        ),
        trials=fleet.trials.tell(
            (worker.spec.role, worker.spec.template_revision) for worker in fleet.workers.values()
        ),
        loads=tuple(build_loads(fleet, now_s)),
    )


def build_loads(fleet: Fleet, now_s: float) -> Iterator[WorkerLoad]:
    """Workers whose end would cost something."""
    for worker in fleet.workers.values():
        hits = round(worker.hit_tokens.value(now_s))
        if worker.claimed or hits:
            yield WorkerLoad(worker.name, worker.claimed, float(hits))
