"""Who stands behind a request, once that is known."""

from dataclasses import dataclass

from tandem_router.gateway.config import Tenant
from tandem_router.regions.residency import ANYWHERE, Residency, clause_of


@dataclass(frozen=True, slots=True)
class Principal:
    """A tenant, narrowed by what its token allows.

    Attributes:
        credential: name of the key or token for audit logs; never the secret itself.
        models: names that may be asked for, None for all.
        residency: where its requests may be served.
        expires_s: Unix time after which the credential is void.
    """

    tenant: Tenant
    credential: str
    models: frozenset[str] | None
    residency: Residency = ANYWHERE
    expires_s: float = float("inf")

    def may_use(self, model: str) -> bool:
        """Whether `model` (as clients name it) is allowed."""
        return self.models is None or model in self.models


def principal_of(
    tenant: Tenant,
    credential: str,
    *,
    models: frozenset[str] | None = None,
    regions: frozenset[str] | None = None,
    expires_s: float = float("inf"),
) -> Principal:
    """A principal whose rights are the tenant's, narrowed by those of the key or token, which can never widen them."""
    return Principal(
        tenant,
        credential,
        narrowed(None if tenant.models is None else frozenset(tenant.models), models),
        clause_of(tenant.regions) + clause_of(regions),
        expires_s,
    )


def narrowed(first: frozenset[str] | None, second: frozenset[str] | None) -> frozenset[str] | None:
    """What both allow; None allows everything."""
    if first is None or second is None:
        return second if first is None else first
    return first & second
