"""This region among the others: who they are, the lines to them, and what they are told. Runs beside the requests."""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem_router.digests.replica import Replica
from tandem_router.errors import UnavailableError
from tandem_router.fleets import Catalog, Fleet
from tandem_router.gateway.principal import Principal
from tandem_router.gateway.service import Gateway
from tandem_router.regions.atlas import Atlas
from tandem_router.regions.broadcast import Broadcaster
from tandem_router.regions.credentials import AcceptedTokens, OwnCertificate, PeerCredentials
from tandem_router.regions.home import build_load
from tandem_router.regions.link import PeerLink
from tandem_router.regions.load import FleetLoad
from tandem_router.regions.matrix import build_matrix, build_words
from tandem_router.regions.tally import RegionTally
from tandem_router.serving import Order
from tandem_router.snapshot import RegionSpec, Snapshot

LOG = logging.getLogger(__name__)
LOOK_S = 0.025
HOUSEKEEPING_S = 1.0
OPERATOR_S = 60.0  # after which the word of an operator that asks nobody counts no more
IDLE_TICKS = 10  # a fleet without requests is looked at in one of so many lines


class HomeLostError(UnavailableError):
    """Nobody is left at home to serve a request that could be served elsewhere."""


@dataclass(frozen=True, slots=True)
class BorderRules:
    """What regions are run with.

    Attributes:
        name: of this region.
        peers_dir: a directory for each peer with `token` and `ca.crt`.
        token_file: tokens that peers may show us, one per line.
        own: our certificate, where peers ask for one.
        trusts_certificates: our internal listener lets in nobody without a certificate of the installation's CA.
        first_byte_timeout_s: of a request that was forwarded.
    """

    name: str
    peers_dir: Path | None
    token_file: Path | None
    own: OwnCertificate | None
    trusts_certificates: bool
    first_byte_timeout_s: float


class Border:
    """Regions of one router."""

    def __init__(self, rules: BorderRules, catalog: Catalog, replica: Replica, gateway: Gateway) -> None:
        self.rules = rules
        self.name = rules.name
        self.first_byte_timeout_s = rules.first_byte_timeout_s
        self.tokens = AcceptedTokens(rules.token_file)
        self.tally = RegionTally()
        self.links: dict[str, PeerLink] = {}
        self.catalog, self._replica, self._gateway = catalog, replica, gateway
        self._loop = asyncio.get_running_loop()
        self.atlas = Atlas(RegionSpec(rules.name), self._load_of)
        self.broadcaster = Broadcaster(rules.name, replica.epoch, self._build_fleets)
        self._by_key: dict[str, Fleet] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._tick = 0
        self._asked_s: float | None = None  # when the operator read our demand
        self._tasks: dict[PeerLink, asyncio.Task[None]] = {}

    # --- who there is -------------------------------------------------------------------------------------------

    def apply(self, snapshot: Snapshot) -> None:
        """Take over what discovery sees."""
        self._by_key = {fleet.key: fleet for fleet in self.catalog.fleets.values()}
        self.atlas.apply(snapshot.regions)
        for name, link in list(self.links.items()):
            if self.atlas.peers.get(name) is not link.peer:
                self._end(self.links.pop(name))
        for name, peer in self.atlas.peers.items():
            if name not in self.links and peer.spec.url is not None:
                self.links[name] = self._begin(PeerLink(peer, self.name, self._credentials(name), self._loop))

    def _credentials(self, peer: str) -> PeerCredentials:
        folder = self.rules.peers_dir
        return PeerCredentials(None if folder is None else folder / peer, self.rules.own)

    def _begin(self, link: PeerLink) -> PeerLink:
        self._tasks[link] = self._loop.create_task(link.run())
        return link

    def _end(self, link: PeerLink) -> None:
        self._tasks.pop(link).cancel()

    # --- running ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch the peers and tell them, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch())
                group.create_task(self.broadcaster.run())
                group.create_task(self._housekeep())
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            now_s = self._loop.time()
            for link in self.links.values():
                if link.look(now_s):
                    self._note_change(link)
            self._send_away(now_s)
            for task in self._tasks.values():
                if task.done():
                    task.result()  # a fault of ours ends the process, as that of every other task

    def _note_change(self, link: PeerLink) -> None:
        peer = link.peer
        self.tally.transitions[(peer.name, peer.state)] += 1
        LOG.log(logging.INFO if peer.state == "up" else logging.WARNING, "region %s is %s", peer.name, peer.state)

    def _send_away(self, now_s: float) -> None:
        """Requests that wait for workers that are gone go elsewhere, if there is anybody."""
        for fleet in self.catalog.fleets.values():
            if not len(fleet.queue) or fleet.can_serve(now_s):
                continue
            if self.atlas.has_refuge(fleet.key, fleet.spec.served_name, now_s):
                fleet.queue.send_away(HomeLostError("This region has no worker left.", code="home_lost"))

    async def _housekeep(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            self.tokens.refresh()
            for link in self.links.values():
                link.refresh()
            self.atlas.forget(self._by_key.keys(), self._gateway.gate.accounts.keys())

    # --- home ---------------------------------------------------------------------------------------------------

    def _load_of(self, key: str, now_s: float) -> FleetLoad:
        fleet = self._by_key.get(key)
        if fleet is None:
            return FleetLoad()
        return build_load(fleet, self._replica.levels(fleet.spec.uid, now_s), now_s)

    def note_operator(self) -> None:
        """The operator has read our demand: what it says of demand is said by somebody who lives."""
        self._asked_s = self._loop.time()

    def _has_operator(self, now_s: float) -> bool:
        return self._asked_s is not None and now_s - self._asked_s <= OPERATOR_S

    def _build_fleets(self) -> tuple[dict[str, dict[str, Any]], bool]:
        """Every fleet's FleetDigest, as plain fields; what is idle is looked at once a second."""
        now_s = self._loop.time()
        self._tick += 1
        told = {}
        for place, (key, fleet) in enumerate(self._by_key.items()):
            is_due = (place + self._tick) % IDLE_TICKS == 0 or key not in self._told or is_busy(fleet)
            told[key] = self._digest_of(fleet, now_s) if is_due else self._told[key]
        self._told = told
        return told, self.atlas.own.drain

    def _digest_of(self, fleet: Fleet, now_s: float) -> dict[str, Any]:
        load = self._load_of(fleet.key, now_s)
        word = (fleet.spec.uncoverable, fleet.spec.room) if self._has_operator(now_s) else (None, None)
        return {
            "servedName": fleet.spec.served_name,
            "queuedTokens": load.queued_tokens,
            "prefillWorkers": load.prefill_workers,
            "workerTokensPerS": round(load.worker_tokens_per_s, 1),
            "freeSlots": load.free_slots,
            "idleWorkers": load.idle_workers,
            "waitingDecode": load.waiting_decode,
            **({} if word[0] is None else {"uncoverable": word[0]}),
            **({} if word[1] is None else {"room": word[1]}),
        }

    # --- what requests ask --------------------------------------------------------------------------------------

    def counts_at_home(self, order: Order, principal: Principal) -> bool:
        """The request is demand of this region, wherever it is served; not so where it may never be served here."""
        return not order.fleet.spec.is_elsewhere and self.atlas.may_serve_here(principal.residency)

    def salt_basis(self, principal: Principal) -> str:
        """Whose cached prefixes a forwarded request may share."""
        return self._gateway.salt_basis(principal)

    # --- what others ask ----------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """The matrix of `GET /internal/v1/regions`."""
        return build_matrix(self.atlas, self.tally, self._loop.time())

    def words(self) -> dict[str, Any]:
        """What every region says of demand, for the operator: `tandem_api.router.RegionWord` by name."""
        own = {key: (fleet.spec.uncoverable, fleet.spec.room) for key, fleet in self._by_key.items()}
        return build_words(self.atlas, own)


def is_busy(fleet: Fleet) -> bool:
    """It has requests."""
    return len(fleet.queue) > 0 or any(worker.running for worker in fleet.workers.values())
