"""Puts this replica among its peers: who they are, how they are reached, and what follows from it."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from tandem_router.digests.discovery import find_peers
from tandem_router.digests.membership import Membership
from tandem_router.digests.mesh import DigestMesh
from tandem_router.digests.replica import Replica
from tandem_router.discovery.api_client import ApiClient
from tandem_router.fleets import Catalog
from tandem_router.http1.outbound import UpstreamPool
from tandem_router.liveness import LivenessPoller

CHECK_S = 0.1


@dataclass(frozen=True, slots=True)
class PeerSource:
    """Where peers come from: addresses that were given, or pods with these labels in this namespace."""

    addresses: tuple[str, ...] = ()
    client: ApiClient | None = None
    namespace: str = ""
    selector: str = ""


class Peering:
    """One replica among its peers.

    Args:
        pool: for calls to peers.
        bearer: token of internal listeners.
        on_share: told (rank, number of members) whenever that changes.
    """

    def __init__(
        self,
        catalog: Catalog,
        poller: LivenessPoller,
        pool: UpstreamPool,
        bearer: Callable[[], str | None],
        on_share: Callable[[int, int], None],
    ) -> None:
        self._clock = pool.loop.time
        self._on_share = on_share
        self._told: tuple[int, int] | None = None
        self.membership = Membership("", self._clock())
        self.replica = Replica(catalog, self.membership, secrets.token_hex(8))
        self.mesh = DigestMesh(self.replica, pool, bearer, poller.ask_soon)
        catalog.on_cached = self.replica.note_inserts
        poller.owns = self.replica.owns
        poller.on_read = self.replica.note_sighting

    async def run(self, own: str, source: PeerSource) -> None:
        """Exchange digests until cancelled; `own` is the address of this replica's internal listener."""
        self.membership.own = own
        self._discovered(list(source.addresses))
        async with asyncio.TaskGroup() as group:
            group.create_task(self.mesh.run())
            group.create_task(self._watch_share())
            if source.client is not None and source.selector:
                peers = find_peers(source.client, source.namespace, source.selector, self._discovered)
                group.create_task(peers.run())

    def _discovered(self, addresses: list[str]) -> None:
        self.membership.discover(addresses, self._clock())

    async def _watch_share(self) -> None:
        while True:
            members = self.membership.members(self._clock())
            share = (members.index(self.membership.own), len(members))
            if share != self._told:
                self._told = share
                self._on_share(*share)
            await asyncio.sleep(CHECK_S)
