"""Cache salts: two tenants' equal prompts share no cached prefix, unless they share a `cacheDomain`.

Without a salt, the time to the first token tells a tenant what others have asked.
"""

import hashlib
import hmac

from tandem_router.gateway.config import Tenant

SALT_CHARS = 32


def salt_basis(tenant: Tenant) -> str:
    """What the salt stands for. It travels with a request to another region, whose router key is another one."""
    return f"domain {tenant.cache_domain}" if tenant.cache_domain is not None else f"tenant {tenant.name}"


def cache_salt(key: bytes, basis: str) -> str:
    """HMAC-SHA256 of the basis under the router key, hex: equal on all replicas, unguessable for clients."""
    return hmac.new(key, f"tandem cache salt {basis}".encode(), hashlib.sha256).hexdigest()[:SALT_CHARS]
