"""The router process: puts the parts together, listens, and drains on SIGTERM."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from tandem_router import explain
from tandem_router.admission import QueueLimits
from tandem_router.certificates import build_peer_tls, build_upstream_tls, load_tls, own_certificate
from tandem_router.completion import CompletionService
from tandem_router.decision_log import DecisionLog
from tandem_router.demand.recorder import DemandRecorder
from tandem_router.digests.mesh import format_address
from tandem_router.digests.peering import Peering, PeerSource
from tandem_router.discovery.api_client import ApiClient, ApiMisconfiguredError, Credentials
from tandem_router.discovery.kubernetes import KubernetesDiscovery
from tandem_router.discovery.static_file import StaticFileError, watch_static
from tandem_router.fleets import Capacity, Catalog
from tandem_router.gateway.config import GatewayConfigError
from tandem_router.gateway.limits import Share
from tandem_router.gateway.service import Gateway
from tandem_router.http1.listener import Listener
from tandem_router.http1.outbound import ConnectRules, UpstreamPool
from tandem_router.http1.strict import Limits
from tandem_router.http1.tls import ServerTls, TlsFileError
from tandem_router.internal import InternalListener
from tandem_router.keys import KeyFileError, KeyRing
from tandem_router.liveness import LivenessPoller
from tandem_router.logs import configure_logging
from tandem_router.metrics import Metrics
from tandem_router.open_files import most_clients, raise_file_limit
from tandem_router.placer import Placer
from tandem_router.policy.pairing import PairingRules
from tandem_router.probes.prober import KVProber
from tandem_router.public import PublicListener
from tandem_router.reception import Reception
from tandem_router.regions.border import Border, BorderRules
from tandem_router.regions.endpoints import RegionEndpoints
from tandem_router.serving import RetryRules, Serving
from tandem_router.settings import Settings, parse_settings
from tandem_router.snapshot import Snapshot
from tandem_router.tracing.spans import Tracer

if TYPE_CHECKING:
    from tandem_router.tracing.export import SpanQueue

LOG = logging.getLogger(__name__)
HOUSEKEEPING_S = 1.0
LATE_S = 0.5
INTERNAL_BODY_BYTES = 4 << 20
FORWARD_BYTES = 64 << 10  # more than what is added to a request on its way to another region
BACKLOG = 4096  # connections that wait to be accepted; the kernel may allow fewer (net.core.somaxconn)
YOUNG_OBJECTS = 10_000  # allocated between two collections
LAST_WORDS_S = 1.0  # for leases released by requests that the drain timeout has cut
NOTICE_S = 2.0  # after SIGTERM we still accept for so long: load balancers have not read /readyz yet


class StartError(Exception):
    """The router cannot start; the message says why and what to do."""


class Router:
    """One router process. Make it inside a running event loop."""

    def __init__(self, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        self._settings = settings
        self.catalog = Catalog(build_capacity(settings))
        self.metrics = Metrics()
        self.demand = DemandRecorder(monotonic)
        self._decisions = DecisionLog()
        self.keys = KeyRing(settings.keys_dir, required=settings.static_file is None)
        self.gateway = Gateway(
            settings.tenants_file, monotonic, salt_key=lambda: self.keys.current, knows_region=bool(settings.region)
        )
        self._tls = load_tls(settings.tls_cert, settings.tls_key)
        self._internal_tls = load_tls(settings.internal_tls_cert, settings.internal_tls_key, settings.internal_tls_ca)
        rules = ConnectRules(settings.connect_timeout_s, settings.connects_at_once)
        self._pool = UpstreamPool(loop, build_upstream_tls(settings), settings.upstream_server_name, rules)
        self._poller = LivenessPoller(self.catalog, self._pool, stall_s=settings.stall_timeout_s)
        self._peer_pool = UpstreamPool(loop, build_peer_tls(settings))
        self.peering = Peering(
            self.catalog, self._poller, self._peer_pool, self.keys.internal_token,
            lambda rank, of: self.gateway.set_share(Share(rank, of)),
        )  # fmt: skip
        self.prober = KVProber(self.catalog, self._pool, self.keys, self.peering.replica.owns_fleet)
        self._is_draining = False
        self._servers: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.spans = start_spans(settings)
        self.border = self._build_border() if settings.region else None
        completions = self._build_completions()
        self._regions = None if self.border is None else RegionEndpoints(self.border, completions)
        limits = Limits(body_bytes=settings.max_body_bytes, connections=settings.max_connections or most_clients())
        public = PublicListener(completions, self.catalog, self.metrics, monotonic, lambda: self._is_draining)
        self._public = Listener(public.routes().handle, limits)
        internal = InternalListener(
            self.catalog,
            self.keys,
            self.metrics,
            settings.replica,
            monotonic,
            self.gateway,
            self.demand,
            self._decisions,
            self.peering.mesh,
            self._regions,
        )
        self._internal = Listener(internal.routes().handle, self._internal_limits())

    def _internal_limits(self) -> Limits:
        """What other regions forward is a client's largest request, and what Tandem adds to it."""
        if self.border is None:
            return Limits(body_bytes=INTERNAL_BODY_BYTES)
        client = Limits()
        return Limits(
            header_bytes=client.header_bytes + FORWARD_BYTES,
            body_bytes=max(INTERNAL_BODY_BYTES, self._settings.max_body_bytes + FORWARD_BYTES),
        )

    def _build_border(self) -> Border:
        settings = self._settings
        rules = BorderRules(
            settings.region, settings.regions_dir, settings.region_token_file, own_certificate(settings),
            settings.internal_tls_ca is not None, settings.first_byte_timeout_s,
        )  # fmt: skip
        return Border(rules, self.catalog, self.peering.replica, self.gateway)

    def _build_completions(self) -> CompletionService:
        settings = self._settings
        rules = RetryRules(
            settings.retries, settings.prefill_timeout_s, first_byte_timeout_s=settings.first_byte_timeout_s
        )
        placer = Placer(self.catalog.index, PairingRules(settings.min_remote_tokens), self._decisions)
        tracer = None if self.spans is None else Tracer(self.spans.put, settings.trace_share)
        reception = Reception(placer, monotonic)
        serving = Serving(self.catalog, self._pool, self.keys, placer, reception, self.prober, rules)
        self._background = serving.background
        return CompletionService(serving, self.metrics, self.gateway, self.demand, tracer, self.border)

    @property
    def address(self) -> str:
        """Where the clients' listener is bound."""
        return str(self._servers[0].sockets[0].getsockname()[0])

    @property
    def port(self) -> int:
        """Port of the clients' listener."""
        return int(self._servers[0].sockets[0].getsockname()[1])

    @property
    def internal_port(self) -> int:
        """Port of the internal listener."""
        return int(self._servers[1].sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen, and begin to discover.

        Raises:
            StartError: an address cannot be bound, or discovery is misconfigured.
        """
        settings = self._settings
        await self._listen(self._public, settings.port, self._tls, reuse_port=settings.reuse_port)
        await self._listen(self._internal, settings.internal_port, self._internal_tls)
        self._spawn(self.peering.run(format_address(settings.host, self.internal_port), self._peer_source()))
        if settings.kv_probe:
            self._spawn(self.prober.run())
        if self.border is not None:
            self._spawn(self.border.run())
        self._spawn(self._housekeep())
        self._spawn(self._keep_demand())
        self._spawn(self._poller.run())
        self._spawn(self.gateway.run())
        self._spawn(self._discover())

    async def _listen(self, listener: Listener, port: int, tls: ServerTls | None, *, reuse_port: bool = False) -> None:
        host, context = self._settings.host, None if tls is None else tls.context
        try:
            server = await self._pool.loop.create_server(
                listener.connect, host, port, ssl=context, backlog=BACKLOG, reuse_port=reuse_port or None
            )
        except OSError as error:
            raise StartError(f"cannot listen on {host} port {port}: {error.strerror}") from error
        self._servers.append(server)

    def _peer_source(self) -> PeerSource:
        settings = self._settings
        if settings.api_server is None or not settings.peer_selector:
            return PeerSource(settings.peers)
        return PeerSource(settings.peers, self._api_client(), self._own_namespace(), settings.peer_selector)

    def _api_client(self) -> ApiClient:
        settings = self._settings
        if settings.api_server is None:
            raise StartError(
                "no Kubernetes API: run in a pod, set KUBERNETES_SERVICE_HOST or --api-server, or give --static FILE"
            )
        return ApiClient(settings.api_server, Credentials(settings.service_account_dir), self._pool.loop)

    def _own_namespace(self) -> str:
        file = self._settings.service_account_dir / "namespace"
        return file.read_text().strip() if file.exists() else "default"

    async def _discover(self) -> None:
        settings = self._settings
        if settings.static_file is not None:
            await watch_static(settings.static_file, self._publish)
            return
        await KubernetesDiscovery(
            self._api_client(), settings.namespaces, settings.state_dir, self._publish,
            region=settings.region, home=self._own_namespace(),
        ).run()  # fmt: skip

    def _publish(self, snapshot: Snapshot) -> None:
        self.catalog.apply(snapshot)
        if self.border is not None:
            self.border.apply(snapshot)
        self._poller.ask_new()

    async def _housekeep(self) -> None:
        while True:
            due_s = self._pool.loop.time() + HOUSEKEEPING_S
            await asyncio.sleep(HOUSEKEEPING_S)
            now_s = self._pool.loop.time()
            if now_s - due_s < LATE_S:  # else what clients have sent meanwhile is read first
                self._public.sweep(now_s)
                self._internal.sweep(now_s)
            self._pool.close_idle(now_s)
            self._peer_pool.close_idle(now_s)
            self._decisions.forget_fleets({fleet.key for fleet in self.catalog.fleets.values()})
            self._refresh_files()

    def _refresh_files(self) -> None:
        try:
            self.keys.refresh()
            for tls in filter(None, (self._tls, self._internal_tls)):
                tls.refresh()
        except (KeyFileError, TlsFileError) as error:
            LOG.error("kept as it was: %s", error)

    async def _keep_demand(self) -> None:
        """Close each second of demand as it ends."""
        while True:
            await asyncio.sleep(self.demand.until_next_s())
            self.demand.tick(self.catalog.fleets)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(self._pool.loop.create_task(work))

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain.

        Raises:
            StartError: a part that must run for ever has failed.
        """
        loop = self._pool.loop
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        await self.start()
        LOG.info("listening", extra={"port": self.port, "internal_port": self.internal_port})
        waiting = loop.create_task(stopped.wait())
        done, _ = await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {waiting}:
            waiting.cancel()
            await self.close()
            task.result()
            raise StartError("a background task ended")
        await self.drain(NOTICE_S)

    async def drain(self, notice_s: float) -> None:
        """Stop accepting after `notice_s`, let streams end within the drain timeout, then close everything."""
        deadline_s = self._pool.loop.time() + self._settings.drain_timeout_s
        self._is_draining = self.peering.replica.draining = True
        self._public.drain()
        await asyncio.sleep(notice_s)
        for server in self._servers:
            server.close()
        self._public.drain()
        try:
            async with asyncio.timeout_at(deadline_s):
                if self._regions is not None:
                    await self._regions.leave()
                await self._public.wait_empty()
        except TimeoutError:
            LOG.warning("drain timeout: %d connections are cut", len(self._public.connections))
        await self.close()

    async def close(self) -> None:
        """Close everything now."""
        for server in self._servers:
            server.close()
        for listener in (self._public, self._internal):
            listener.abort()
            await listener.wait_empty()
        await asyncio.sleep(0)  # cancelled requests end, and release what they hold
        if self._background:
            await asyncio.wait(self._background, timeout=LAST_WORDS_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.close()
        self._peer_pool.close()
        if self.spans is not None:
            await self._pool.loop.run_in_executor(None, self.spans.stop)


def build_capacity(settings: Settings) -> Capacity:
    """Bounds of what is kept."""
    limits = QueueLimits(settings.queue_limit, settings.queue_tokens)
    return Capacity(settings.default_slots, limits, settings.index_blocks, settings.hedge_share)


START_FAULTS = (StartError, KeyFileError, StaticFileError, ApiMisconfiguredError, GatewayConfigError, TlsFileError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `tandem-router`."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["explain"]:
        sys.exit(explain.main(given[1:]))
    settings = parse_settings(given)
    configure_logging(settings.log_level)
    try:
        with asyncio.Runner(loop_factory=fastest_loop()) as runner:
            runner.run(_run(settings))
    except START_FAULTS as error:
        LOG.error("%s", error)
        sys.exit(2)


def start_spans(settings: Settings) -> "SpanQueue | None":
    """What sends spans, None when no collector is named.

    Raises:
        StartError: OpenTelemetry's library is not installed.
    """
    if settings.otlp_endpoint is None:
        return None
    try:
        from tandem_router.tracing.export import build_queue
    except ImportError as error:
        raise StartError(f"--otlp-endpoint needs tandem-inference[tracing]: {error}") from error
    queue = build_queue(settings.otlp_endpoint, settings.replica)
    queue.start()
    return queue


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Makes uvloop's loop where it is installed; None stands for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def spare_collector() -> None:
    """Keep the garbage collector from walking modules and classes again and again: hardly a request makes a cycle."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


async def _run(settings: Settings) -> None:
    spare_collector()
    raise_file_limit()
    await Router(settings).run()
