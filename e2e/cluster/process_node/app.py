"""Puts the parts together and runs the node from start to SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from cluster.process_node.addresses import AddressPool
from cluster.process_node.api import ApiClient, ApiError, ApiUnreachableError
from cluster.process_node.checks import build_probe_session
from cluster.process_node.events import EventRecorder
from cluster.process_node.folders import NodeFolders
from cluster.process_node.node import NodeIdentity, NodeRegistration
from cluster.process_node.object_cache import ObjectCache
from cluster.process_node.orphans import NODE_MARK, end_leftover_processes, kill_marked
from cluster.process_node.registry import PodRegistry
from cluster.process_node.server import build_tls_context, start_server
from cluster.process_node.services import NodeServices, Timing
from cluster.process_node.settings import Settings
from cluster.process_node.watching import watch_forever

SHUTDOWN_GRACE_S = 10.0
LAST_WORDS_S = 2.0
REGISTER_RETRY_S = 1.0
FORGET_EVERY_S = 60.0
log = logging.getLogger(__name__)


async def run_node(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises OSError, ssl.SSLError, FolderError when it cannot start."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    folders = NodeFolders(settings.root)
    folders.make()
    if left := end_leftover_processes(settings.root):
        log.warning("ended %s processes that an earlier run had left", left)
    async with _services(settings, folders) as services:
        await _serve(settings, services, stop)
    kill_marked(NODE_MARK, str(settings.root))
    folders.remove_outside_root()
    log.info("node %s has ended", settings.node_name)


@contextlib.asynccontextmanager
async def _services(settings: Settings, folders: NodeFolders) -> AsyncIterator[NodeServices]:
    async with ApiClient(settings.credentials) as api, build_probe_session() as probe_session:
        yield NodeServices(
            node_name=settings.node_name,
            api=api,
            api_host=settings.credentials.host,
            api_port=settings.credentials.port,
            images=settings.images,
            addresses=AddressPool(settings.pod_cidr),
            folders=folders,
            cache=ObjectCache(api, time.monotonic),
            events=EventRecorder(api, settings.node_name),
            probe_session=probe_session,
            allocatable=settings.capacity,
            inherited_env=settings.inherited_env,
            timing=Timing(backoff_s=settings.backoff_s),
        )


async def _serve(settings: Settings, services: NodeServices, stop: asyncio.Event) -> None:
    pods = PodRegistry(services)
    tls = build_tls_context(settings.ca, settings.cert, settings.key)
    server = await start_server(pods, tls, settings.port)
    identity = NodeIdentity(settings.node_name, settings.capacity, server.port)
    registration = NodeRegistration(services.api, identity)
    try:
        async with _background(_work(services, registration, pods), stop):
            log.info("node %s serves logs on port %s", settings.node_name, server.port)
            await stop.wait()
        await _close(registration, pods)
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def _background(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> AsyncIterator[None]:
    """Work that goes on meanwhile; its failure ends the node instead of leaving half of one."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _work(services: NodeServices, registration: NodeRegistration, pods: PodRegistry) -> None:
    await _register(registration)
    log.info("node %s is registered and Ready", services.node_name)
    query = {"fieldSelector": f"spec.nodeName={services.node_name}"}
    async with asyncio.TaskGroup() as group:
        group.create_task(registration.beat())
        group.create_task(services.events.run())
        group.create_task(_forget_old_objects(services.cache))
        group.create_task(watch_forever(services.api, "/api/v1/pods", query, pods))


async def _register(registration: NodeRegistration) -> None:
    while True:
        try:
            return await registration.register()
        except (ApiError, ApiUnreachableError) as error:
            log.warning("cannot register yet: %s", error)
            await asyncio.sleep(REGISTER_RETRY_S)


async def _forget_old_objects(cache: ObjectCache) -> None:
    while True:
        await asyncio.sleep(FORGET_EVERY_S)
        cache.forget_older_than(FORGET_EVERY_S)


async def _close(registration: NodeRegistration, pods: PodRegistry) -> None:
    log.info("ending %s pods", pods.active_pods)
    with contextlib.suppress(ApiError, ApiUnreachableError, TimeoutError):
        async with asyncio.timeout(LAST_WORDS_S):
            await registration.write_status(is_ready=False)
    await pods.shut_down(SHUTDOWN_GRACE_S)
