"""The tenants file: a strict schema, so that a slip refuses the file as a whole instead of opening a door."""

import datetime as dt
from typing import Annotated, Any, Literal

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel

MAX_FILE_BYTES = 1024 * 1024  # what a Secret may hold
# Asymmetric ones only: with a shared secret, whoever can check a token can also make one.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
TenantName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=512)]
KeyHash = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
HttpsUrl = Annotated[str, StringConstraints(pattern=r"^https://[^\s@]+$", max_length=2048)]
Regions = Annotated[tuple[Text, ...], Field(max_length=100)]  # names, or label=value
PositiveRate = Annotated[int, Field(ge=1, le=10**12)]


class GatewayConfigError(Exception):
    """The tenants file cannot be used; the message names the field and the fix."""


class _Strict(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class ApiKey(_Strict):
    """One API key. `hash` is `sha256:` and the hex digest of the key; `tandem-router key` makes both.

    `regions` narrows those of its tenant.
    """

    id: Text
    hash: KeyHash
    expires: AwareDatetime | None = None
    regions: Regions | None = None

    @property
    def expires_s(self) -> float:
        """Unix time after which the key opens nothing."""
        return float("inf") if self.expires is None else self.expires.timestamp()


class Issuer(_Strict):
    """Who may sign tokens (JWT). Keys come inline (`jwks`) or from `jwksUrl`, fetched at start and every `refresh`."""

    issuer: Text
    audience: Text
    jwks: dict[str, Any] | None = None
    jwks_url: HttpsUrl | None = None
    refresh_seconds: Annotated[int, Field(ge=30, le=86_400)] = 600
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256", "ES256", "EdDSA")
    tenant_claim: Text = "tenant"
    models_claim: Text | None = None
    regions_claim: Text | None = None
    leeway_seconds: Annotated[int, Field(ge=0, le=300)] = 30

    @model_validator(mode="after")
    def _one_source(self) -> "Issuer":
        if (self.jwks is None) == (self.jwks_url is None):
            raise ValueError("give exactly one of jwks and jwksUrl")
        return self


class Tenant(_Strict):
    """What one tenant may do. A limit that is left out does not limit.

    Attributes:
        weight: fair share of the queue beside other tenants of the same priority.
        regions: where its requests may be served: names of regions, or `label=value` for all that carry the label.
        priority: higher ones are served first.
        spill_budget: greatest share of this tenant's requests that may be served in another region.
        cache_domain: tenants with one domain share cached prefixes; left out: nobody shares with this tenant.
    """

    name: TenantName
    api_keys: Annotated[tuple[ApiKey, ...], Field(max_length=1000)] = ()
    models: Annotated[tuple[Text, ...], Field(max_length=1000)] | None = None
    regions: Regions | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    requests_per_minute: PositiveRate | None = None
    tokens_per_minute: PositiveRate | None = None
    concurrency: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    spill_budget: Annotated[float, Field(ge=0, le=1)] = 1.0
    cache_domain: Text | None = None


class GatewayConfig(_Strict):
    """The whole file. `anonymous` names the tenant of requests without credentials; left out: they are refused."""

    tenants: Annotated[tuple[Tenant, ...], Field(min_length=1, max_length=10_000)]
    issuers: Annotated[tuple[Issuer, ...], Field(max_length=100)] = ()
    anonymous: TenantName | None = None

    @property
    def binds_regions(self) -> bool:
        """Somebody's requests may not be served everywhere."""
        tenants = any(one.regions is not None or any(key.regions for key in one.api_keys) for one in self.tenants)
        return tenants or any(issuer.regions_claim for issuer in self.issuers)

    @model_validator(mode="after")
    def _consistent(self) -> "GatewayConfig":
        names = [tenant.name for tenant in self.tenants]
        hashes = [key.hash for tenant in self.tenants for key in tenant.api_keys]
        _refuse_twice("tenants: the name", names)
        _refuse_twice("apiKeys: the hash", hashes)
        _refuse_twice("issuers: the issuer", [issuer.issuer for issuer in self.issuers])
        if self.anonymous is not None and self.anonymous not in names:
            raise ValueError(f"anonymous: there is no tenant {self.anonymous!r}; add it to tenants")
        return self


def _refuse_twice(what: str, values: list[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{what} {value!r} occurs twice; keep one")
        seen.add(value)


def parse_gateway_config(text: str) -> GatewayConfig:
    """Read the tenants file (YAML or JSON).

    Raises:
        GatewayConfigError: it is not what the schema asks for; nothing of it may be used.
    """
    if len(text) > MAX_FILE_BYTES:
        raise GatewayConfigError(f"the file is over {MAX_FILE_BYTES} bytes")
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # The parser's own words quote the file, which may hold secrets: the place is enough.
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" at line {mark.line + 1}"
        raise GatewayConfigError(f"not valid YAML{where}") from None
    try:
        return GatewayConfig.model_validate(document)
    except ValidationError as error:
        raise GatewayConfigError(
            "; ".join(_describe(item["loc"], item["msg"]) for item in error.errors()[:5])
        ) from None


def _describe(place: tuple[int | str, ...], message: str) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    return f"{path or 'the file'}: {message}"


def utc(seconds: float) -> str:
    """Unix time as people write it."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
