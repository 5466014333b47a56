"""The gateway of a running router: one gate at a time, replaced as a whole when the tenants file changes."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tandem_router.errors import UnauthorizedError
from tandem_router.gateway.config import GatewayConfig, Tenant, utc
from tandem_router.gateway.files import TenantsFile
from tandem_router.gateway.gate import Gate, Visit
from tandem_router.gateway.jwks import JwksKeeper
from tandem_router.gateway.limits import Share
from tandem_router.gateway.principal import Principal
from tandem_router.gateway.salts import cache_salt, salt_basis
from tandem_router.gateway.signed_tokens import UnknownKeyError
from tandem_router.http1.messages import Headers
from tandem_router.regions.residency import ANYWHERE, Residency, clause_of

LOG = logging.getLogger(__name__)
TICK_S = 1.0
EVERYBODY = "default"


class Gateway:
    """Authenticates requests. Without a tenants file everybody may ask, and credentials are not looked at."""

    def __init__(
        self,
        path: Path | None,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
        salt_key: Callable[[], bytes | None] = lambda: None,
        *,
        knows_region: bool = True,
    ) -> None:
        """Read the tenants file. `salt_key` gives the router key, which may be another one later.

        Args:
            knows_region: this router knows where it is, so that tenants can be bound to regions.

        Raises:
            GatewayConfigError: it cannot be used: a router that does not know whom to trust must not start.
        """
        self._clock = clock
        self._wall = wall
        self._since_s = wall()
        self._salt_key = salt_key
        self._knows_region = knows_region
        self._salted_with: bytes | None = None
        self._file = None if path is None else TenantsFile(path)
        self.is_open = self._file is None
        self.failed_logins = 0
        self._install(open_to_everybody() if self._file is None else self._file.read())

    def _install(self, config: GatewayConfig) -> None:
        gate = Gate(config, self._clock(), previous=getattr(self, "gate", None))
        self.gate = gate
        self._salt()
        self._keeper = JwksKeeper(gate, self._clock)
        if not self._knows_region and config.binds_regions:
            LOG.error("tenants that are bound to regions get 403: this router does not know its own; set --region")

    def _salt(self) -> None:
        if not self.is_open:  # one tenant has nobody to be kept apart from
            self._salted_with = self._salt_key()
            self.gate.set_salts(self._salted_with)

    def authenticate(self, headers: Headers) -> Principal:
        """Who asks.

        Raises:
            UnauthorizedError: no credentials, or none that open anything.
        """
        if self.is_open:
            headers = []
        try:
            return self.gate.authenticate(headers, self._wall())
        except UnauthorizedError as error:
            self.failed_logins += 1
            if isinstance(error.__cause__, UnknownKeyError):
                self._keeper.hurry()
            raise

    def enter(self, principal: Principal, estimate: int) -> Visit:
        """Admit a request of about `estimate` input tokens.

        Raises:
            RateLimitedError: a limit of the tenant is reached.
            UnauthorizedError: the tenant has just been removed.
        """
        return self.gate.enter(principal, estimate, self._clock())

    def salt_basis(self, principal: Principal) -> str:
        """Whose cached prefixes the principal's requests may share in another region; empty: those of everybody."""
        return "" if self.is_open else salt_basis(principal.tenant)

    def salt_for(self, basis: str) -> str | None:
        """Cache salt here of a request from another region."""
        key = self._salt_key()
        return cache_salt(key, basis) if basis and key is not None else None

    def residency_of(self, tenant: str) -> Residency:
        """Where a tenant's requests may be served by the file of this region; anywhere, if that does not know it."""
        account = self.gate.accounts.get(tenant)
        return ANYWHERE if account is None else clause_of(account.tenant.regions)

    def set_share(self, share: Share) -> None:
        """This replica owns another part of all limits."""
        if share != self.gate.share:
            self.gate.set_share(share, self._clock())

    def usage(self) -> dict[str, Any]:
        """What every tenant has used since this replica began to count: totals that only grow, for bills.

        `since` tells two starts of a replica apart: whoever adds up must begin anew when it changes.
        """
        tenants = {name: account.usage.to_json() for name, account in self.gate.accounts.items()}
        return {"since": utc(self._since_s), "tenants": tenants}

    @property
    def limited(self) -> Counter[str]:
        """Requests refused by limits of tenants, by limit."""
        return sum((account.usage.limited for account in self.gate.accounts.values()), Counter())

    @property
    def refused(self) -> str | None:
        """Why the tenants file as it is now is not in use; None when it is."""
        return None if self._file is None else self._file.refused

    def follow(self) -> None:
        """Take over the tenants file if it has changed and can be used, and the router key's salts."""
        if self._file is not None:
            self._file.refresh(self._install)
        if self._salt_key() != self._salted_with:
            self._salt()

    async def run(self) -> None:
        """Follow the file and the issuers' keys, for ever."""
        while True:
            self.follow()
            await self._keeper.refresh()
            await asyncio.sleep(TICK_S)


def open_to_everybody() -> GatewayConfig:
    """One tenant without limits, for requests without credentials."""
    return GatewayConfig(tenants=(Tenant(name=EVERYBODY),), anonymous=EVERYBODY)
