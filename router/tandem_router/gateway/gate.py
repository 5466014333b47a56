"""The gate: from a request's credentials to a visit that is charged to its tenant."""

from dataclasses import dataclass, field

from tandem_router.errors import RateLimitedError, UnauthorizedError
from tandem_router.gateway.api_keys import ApiKeys
from tandem_router.gateway.config import GatewayConfig, Tenant
from tandem_router.gateway.limits import WINDOW_S, Share, TenantLimits, retry_after
from tandem_router.gateway.principal import Principal, principal_of
from tandem_router.gateway.salts import cache_salt, salt_basis
from tandem_router.gateway.signed_tokens import SignedTokens, TokenRefusedError
from tandem_router.gateway.usage import Usage
from tandem_router.http1.messages import Headers, find_header
from tandem_router.policy.prefix_index import seed_of
from tandem_router.token_counts import TokenCounts

LIMIT_HEADERS = tuple(
    tuple(f"x-ratelimit-{part}-{limit}".encode() for part in ("limit", "remaining", "reset"))
    for limit in ("requests", "tokens")
)
CHALLENGE: Headers = [(b"WWW-Authenticate", b"Bearer")]


@dataclass
class TenantAccount:
    """What this replica keeps of one tenant; outlives a reload of the file."""

    tenant: Tenant
    limits: TenantLimits = field(default_factory=TenantLimits)
    usage: Usage = field(default_factory=Usage)
    salt: str | None = None
    index_seed: int = 0

    def set_salt(self, salt: str | None) -> None:
        """Prefixes cached under another salt are not this tenant's, in the engines and in the router's index alike."""
        self.salt = salt
        self.index_seed = 0 if salt is None else seed_of(salt)


class Visit:
    """One admitted request's account with its tenant. End it exactly once."""

    __slots__ = ("_account", "_estimate", "principal")

    def __init__(self, account: TenantAccount, principal: Principal, estimate: int) -> None:
        self._account = account
        self._estimate = estimate
        self.principal = principal

    @property
    def index_seed(self) -> int:
        """Parts the prefix index by tenant."""
        return self._account.index_seed

    def answer_headers(self, now_s: float) -> Headers:
        """How much is left, in the headers that OpenAI's clients know."""
        return limit_headers(self._account.limits, now_s)

    def end(self, outcome: str, tokens: TokenCounts, now_s: float) -> None:
        """Settle: what the engine counted takes the place of the estimate; nothing counted, nothing is charged."""
        self._account.limits.leave(tokens.charged - self._estimate, now_s)
        self._account.usage.count(outcome, tokens.prompt, tokens.cached, tokens.completion)


class GuestVisit:
    """A request whose origin, another region, has charged it to its tenant there."""

    __slots__ = ("index_seed",)

    def __init__(self, index_seed: int) -> None:
        self.index_seed = index_seed

    def answer_headers(self, now_s: float) -> Headers:
        """The origin tells its client what is left of its limits."""
        return []

    def end(self, outcome: str, tokens: TokenCounts, now_s: float) -> None:
        """The origin settles."""


class Gate:
    """Admits requests by one configuration. Wall times are Unix seconds, the others of one monotonic clock."""

    def __init__(self, config: GatewayConfig, now_s: float, *, previous: "Gate | None" = None) -> None:
        self.config = config
        self.share: Share = Share() if previous is None else previous.share
        self.tokens = SignedTokens(config.issuers, config.tenants)
        self._keys = ApiKeys(config.tenants)
        kept: dict[str, TenantAccount] = {}
        if previous is not None:
            kept = previous.accounts
            self.tokens.adopt_keys(previous.tokens)
        self.accounts: dict[str, TenantAccount] = {
            tenant.name: _account(tenant, kept.get(tenant.name)) for tenant in config.tenants
        }
        anonymous = self.accounts.get(config.anonymous or "")
        self._anonymous = None if anonymous is None else principal_of(anonymous.tenant, "anonymous")
        self.set_share(self.share, now_s)

    def set_salts(self, key: bytes | None) -> None:
        """Salts of all tenants under the router key; without one, prefixes are shared."""
        for account in self.accounts.values():
            account.set_salt(None if key is None else cache_salt(key, salt_basis(account.tenant)))

    def salt_of(self, principal: Principal) -> str | None:
        """Cache salt of a principal's requests."""
        account = self.accounts.get(principal.tenant.name)
        return None if account is None else account.salt

    def set_share(self, share: Share, now_s: float) -> None:
        """This replica owns another part of all limits."""
        self.share = share
        for account in self.accounts.values():
            fit_limits(account, share, now_s)

    def authenticate(self, headers: Headers, wall_s: float) -> Principal:
        """Who asks.

        Raises:
            UnauthorizedError: no credentials, or none that open anything.
        """
        shown = shown_credential(headers)
        if shown is None:
            if self._anonymous is None:
                raise unauthorized("Send an API key as `Authorization: Bearer …`.", "credentials_missing")
            return self._anonymous
        principal = self._keys.find(shown)
        if principal is None:
            principal = self._check_token(shown, wall_s)
        elif principal.expires_s <= wall_s:
            raise unauthorized("The API key has expired. Ask your administrator for another.", "api_key_expired")
        return principal

    def _check_token(self, shown: bytes, wall_s: float) -> Principal:
        if not self.config.issuers or shown.count(b".") != 2:
            raise unauthorized("The API key is not known. Check it, and that it was not revoked.", "invalid_api_key")
        try:
            return self.tokens.check(shown, wall_s)
        except TokenRefusedError as error:
            raise unauthorized(f"The token was refused: {error}.", "invalid_token") from error

    def enter(self, principal: Principal, estimate: int, now_s: float) -> Visit:
        """Admit a request of about `estimate` input tokens.

        Raises:
            RateLimitedError: a limit of the tenant is reached.
        """
        account = self.accounts.get(principal.tenant.name)
        if account is None:  # the file was replaced since the credentials were checked
            raise unauthorized("The API key is not known. Check it, and that it was not revoked.", "invalid_api_key")
        refusal = account.limits.try_enter(estimate, now_s)
        if refusal is not None:
            account.usage.limited[refusal.limit] += 1
            raise RateLimitedError(
                f"The limit of {_LIMITS[refusal.limit]} of this key's tenant is reached.",
                code="rate_limit_exceeded",
                retry_after_s=retry_after(refusal),
                headers=limit_headers(account.limits, now_s),
            )
        return Visit(account, principal, estimate)


_LIMITS = {"requests": "requests per minute", "tokens": "tokens per minute", "concurrency": "concurrent requests"}


def unauthorized(message: str, code: str) -> UnauthorizedError:
    """A 401 with its challenge."""
    return UnauthorizedError(message, code=code, headers=CHALLENGE)


def shown_credential(headers: Headers) -> bytes | None:
    """The key or token that a client shows: `Authorization: Bearer`, or `x-api-key` as Anthropic's clients do.

    Raises:
        UnauthorizedError: an Authorization header of another scheme, or an empty one.
    """
    value = find_header(headers, b"authorization")
    if value is None:
        return find_header(headers, b"x-api-key") or None
    scheme, _, shown = value.partition(b" ")
    shown = shown.strip()
    if scheme.lower() != b"bearer" or not shown:
        raise unauthorized("The header Authorization must read `Bearer <key>`.", "invalid_authorization")
    return shown


def _account(tenant: Tenant, kept: TenantAccount | None) -> TenantAccount:
    if kept is None:
        return TenantAccount(tenant)
    kept.tenant = tenant
    return kept


def fit_limits(account: TenantAccount, share: Share, now_s: float) -> None:
    """Give an account its share of its tenant's limits; what was used stays used."""
    tenant, limits = account.tenant, account.limits
    limits.set_requests(_rate(tenant.requests_per_minute, share), now_s)
    limits.set_tokens(_rate(tenant.tokens_per_minute, share), now_s)
    limits.concurrency = None if tenant.concurrency is None else share.of_count(tenant.concurrency)


def _rate(per_minute: int | None, share: Share) -> float | None:
    return None if per_minute is None else share.of_rate(per_minute)


def limit_headers(limits: TenantLimits, now_s: float) -> Headers:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, for the limits that there are."""
    headers: Headers = []
    if limits.requests is None and limits.tokens is None:
        return headers
    for (limit, remaining, reset), bucket in zip(LIMIT_HEADERS, (limits.requests, limits.tokens), strict=True):
        if bucket is not None:
            whole, level = bucket.per_minute, bucket.level(now_s)
            headers.append((limit, b"%d" % whole))
            headers.append((remaining, b"%d" % max(0.0, level)))
            headers.append((reset, b"%.3fs" % ((whole - level) * WINDOW_S / whole)))
    return headers
