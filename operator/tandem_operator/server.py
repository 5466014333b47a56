"""HTTP for Prometheus and for the readiness probe."""

from collections.abc import Callable

from aiohttp import web

from tandem_operator.errors import ConfigurationError
from tandem_operator.metrics import Metrics


async def start_server(host: str, port: int, metrics: Metrics, is_ready: Callable[[], bool]) -> web.AppRunner:
    """Serves /metrics and /readyz; the caller cleans the runner up.

    Raises:
        ConfigurationError: nothing can listen there.
    """

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def show_ready(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if is_ready() else web.Response(status=503, text="not synced yet\n")

    app = web.Application()
    app.add_routes([web.get("/metrics", show_metrics), web.get("/readyz", show_ready)])
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigurationError(f"{host}:{port}: {error.strerror}; set --health-host and --metrics-port") from None
    return runner
