"""Cache salts: two tenants' equal prompts share no cached prefix, unless they share a `cacheDomain`.

Without a salt, the time to the first token tells a tenant what others have asked.
"""

import hashlib
import hmac

from tandem_router.gateway.config import Tenant

SALT_CHARS = 32


def cache_salt(key: bytes, tenant: Tenant) -> str:
    """HMAC-SHA256 of the tenant's domain under the router key, hex: equal on all replicas, unguessable for clients."""
    domain = f"domain {tenant.cache_domain}" if tenant.cache_domain is not None else f"tenant {tenant.name}"
    return hmac.new(key, f"tandem cache salt {domain}".encode(), hashlib.sha256).hexdigest()[:SALT_CHARS]
