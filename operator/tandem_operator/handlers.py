"""The only module that knows kopf: sign-in, event streams, liveness. kopf writes nothing to the cluster."""

import asyncio
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import kopf

from tandem_operator.credentials import Credentials
from tandem_operator.errors import ConfigurationError
from tandem_operator.kinds import SELECTORS, WATCHED, Kind, Manifest

_MAX_BACKOFF_S = 3.0
_COLLECTIONS = frozenset(kind.plural for kind in WATCHED)

EventSink = Callable[[Kind, str | None, Manifest], None]


class _Backoffs:
    """Endless jittered delays. kopf iterates anew for each request; its own would leave us blind for up to 21 s."""

    def __iter__(self) -> Iterator[float]:
        delay_s = 0.25
        while True:
            yield delay_s * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing
            delay_s = min(2 * delay_s, _MAX_BACKOFF_S / 1.2)


class _NoDiffBase(kopf.DiffBaseStorage):
    """kopf compares each object with its last state, for handlers that we do not have: two deep copies an event."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Nothing of ours is in progress between two events."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def build_settings() -> kopf.OperatorSettings:
    """kopf as a mere source of events."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.scanning.disabled = True  # no rights on namespaces or CRDs are needed
    settings.peering.standalone = True  # leadership is a Lease
    settings.networking.error_backoffs = _Backoffs()
    settings.networking.request_timeout = 15
    settings.networking.connect_timeout = 5
    settings.watching.server_timeout = random.randint(300, 600)  # noqa: S311
    settings.watching.chunk_size = 500
    settings.queueing.exit_timeout = 0.2  # nothing waits in kopf's queues: events are taken in at once
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.persistence.finalizer = "tandem.dev/unused"
    settings.process.ultimate_exiting_timeout = 25
    for kind, selector in SELECTORS.items():
        settings.watching.label_selectors[_resource(kind)] = selector
    return settings


def build_registry(
    credentials: Credentials, sink: EventSink, on_list: Callable[[], None], find_fault: Callable[[], str | None]
) -> kopf.OperatorRegistry:
    """Each event of each watched kind goes to `sink`; a sentence from `find_fault` fails the liveness probe.

    `on_list` is called whenever kopf has listed a kind anew: what was deleted before that, nobody is told.
    """
    registry = kopf.OperatorRegistry()

    async def sign_in(**_: Any) -> kopf.AiohttpSession:
        session = _build_session(credentials, on_list)
        namespace = credentials.namespace
        return kopf.AiohttpSession(server=credentials.server, default_namespace=namespace, aiohttp_session=session)

    kopf.on.login(registry=registry, id="login")(sign_in)
    for kind in WATCHED:
        _stream(registry, kind, sink)

    def probe(**_: Any) -> str:
        fault = find_fault()
        if fault:
            raise kopf.PermanentError(fault)  # anything else would be retried while the probe hangs
        return "ok"

    kopf.on.probe(registry=registry, id="health")(probe)
    return registry


def _stream(registry: kopf.OperatorRegistry, kind: Kind, sink: EventSink) -> None:
    async def on_event(event: Any, **_: Any) -> None:
        sink(kind, event["type"], event["object"])

    kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=f"event-{kind.plural}")(on_event)


def _resource(kind: Kind) -> str:
    return f"{kind.plural}.{kind.version}.{kind.group}" if kind.group else kind.plural


def _build_session(credentials: Credentials, on_list: Callable[[], None]) -> aiohttp.ClientSession:
    """Connections for kopf, which themselves tell of lists: one that came back empty makes no event."""

    async def note_list(_: aiohttp.ClientSession, __: object, done: aiohttp.TraceRequestEndParams) -> None:
        is_collection = done.url.path.rsplit("/", 1)[-1] in _COLLECTIONS
        if is_collection and "watch" not in done.url.query and done.response.status == 200:
            on_list()

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(note_list)
    token = credentials.bearer()
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=credentials.tls(), limit=0),
        headers={"User-Agent": "tandem-operator", **({"Authorization": f"Bearer {token}"} if token else {})},
        trace_configs=[trace],
    )


async def stream_events(
    registry: kopf.OperatorRegistry,
    namespaces: tuple[str, ...],
    liveness_url: str,
    on_signal: Callable[[], None],
    stop: asyncio.Event,
) -> None:
    """Runs kopf until `stop` is set. `namespaces` empty means all; SIGTERM and SIGINT call `on_signal`.

    Raises:
        ConfigurationError: nothing can listen at `liveness_url`.
    """
    asyncio.get_running_loop().set_exception_handler(_pass_over_abandoned_streams)
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=build_settings(),
        clusterwide=not namespaces,
        namespaces=namespaces,
        standalone=True,
        liveness_endpoint=liveness_url,
        stop_flag=stop,
    )
    # Taken back from kopf: the lease must be released before kopf takes its way out, which may last seconds.
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    try:
        await kopf.run_tasks(tasks, ignored=others)
    except OSError as error:  # of the one listener that kopf has
        raise ConfigurationError(f"{liveness_url}: {error.strerror}; set --health-host and --health-port") from None


def _pass_over_abandoned_streams(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """kopf leaves its watch generators open when it stops; closing them at exit fails, and means nothing."""
    if "asyncgen" not in context:
        loop.default_exception_handler(context)
