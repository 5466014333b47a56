"""API keys: kept as hashes, found by hash."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from tandem_router.gateway.config import ApiKey, Tenant
from tandem_router.gateway.principal import Principal, principal_of


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: bytes
    principal: Principal


class ApiKeys:
    """Finds the tenant of a key. The time of a look-up tells nothing about keys: it depends on a digest alone."""

    def __init__(self, tenants: Iterable[Tenant]) -> None:
        entries = [_entry(tenant, key) for tenant in tenants for key in tenant.api_keys]
        self._entries = {entry.digest: entry for entry in entries}

    def find(self, shown: bytes) -> Principal | None:
        """The principal of the key `shown`, expired or not; None when nobody holds it."""
        digest = hashlib.sha256(shown).digest()
        entry = self._entries.get(digest)
        if entry is None or not hmac.compare_digest(entry.digest, digest):
            return None
        return entry.principal


def _entry(tenant: Tenant, key: ApiKey) -> _Entry:
    digest = bytes.fromhex(key.hash.removeprefix("sha256:"))
    regions = None if key.regions is None else frozenset(key.regions)
    return _Entry(digest, principal_of(tenant, f"key {key.id}", regions=regions, expires_s=key.expires_s))


def hash_api_key(key: str) -> str:
    """`sha256:<hex>` of a key."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()
