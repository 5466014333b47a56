"""Signed tokens (JWT): checked once, then remembered until they expire.

PyJWT does the cryptography. What is decided here: which keys count (those of the token's own issuer, found by `kid`
and nothing else: `jku`, `x5u` and `jwk` headers are never read), which algorithms (asymmetric ones that the issuer
lists and that fit the key), and which claims must be there.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from tandem_router.gateway.config import GatewayConfigError, Issuer, Tenant
from tandem_router.gateway.principal import Principal, principal_of

MAX_TOKEN_BYTES = 8192
REMEMBERED = 10_000
REQUIRED = ["exp", "iss", "aud"]
_FAMILIES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "k"))


class TokenRefusedError(Exception):
    """The token opens nothing; the message says why without repeating it."""


class UnknownKeyError(TokenRefusedError):
    """The token names a key that its issuer has not shown us: perhaps it has rotated."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key of an issuer. `algorithm` is what its owner bound it to, None if anything of its family."""

    key: Any
    family: str
    algorithm: str | None

    def fits(self, algorithm: str) -> bool:
        """Whether a token signed by `algorithm` may be checked with this key."""
        return self.family == _FAMILIES[algorithm[:2]] and self.algorithm in (None, algorithm)


class KeySet:
    """Public keys of one issuer, by `kid`."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Read a JWKS.

        Raises:
            GatewayConfigError: it holds no usable public key, or a private one.
        """
        self._keys = dict(_read_keys(document))
        if not self._keys:
            raise GatewayConfigError("the JWKS holds no usable key: give public RSA, EC or OKP keys, each with a kid")

    def find(self, kid: str) -> PublicKey | None:
        """The key `kid`."""
        return self._keys.get(kid)


def _read_keys(document: Mapping[str, Any]) -> Iterable[tuple[str, PublicKey]]:
    keys = document.get("keys")
    if not isinstance(keys, list) or len(keys) > 100:
        raise GatewayConfigError("the JWKS must be an object whose `keys` is a list of at most 100 keys")
    for key in keys:
        if not isinstance(key, dict) or not isinstance(key.get("kid"), str):
            continue
        if key.get("kty") not in _FAMILIES.values() or key.get("use", "sig") != "sig":
            continue
        if not _PRIVATE.isdisjoint(key):
            raise GatewayConfigError("the JWKS holds a private key: publish and mount public keys only")
        try:
            yield key["kid"], PublicKey(jwt.PyJWK(key).key, key["kty"], key.get("alg"))
        except jwt.PyJWTError as error:
            raise GatewayConfigError(f"a key of the JWKS cannot be read: {type(error).__name__}") from None


class SignedTokens:
    """Checks tokens of the configured issuers. Times are Unix seconds."""

    def __init__(self, issuers: Iterable[Issuer], tenants: Iterable[Tenant]) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self._tenants = {tenant.name: tenant for tenant in tenants}
        self._key_sets: dict[str, KeySet] = {}
        self._seen: OrderedDict[bytes, Principal] = OrderedDict()
        for issuer in self._issuers.values():
            if issuer.jwks is not None:
                self.set_keys(issuer.issuer, KeySet(issuer.jwks))

    def adopt_keys(self, previous: "SignedTokens") -> None:
        """Begin with the fetched keys of an earlier configuration, for the issuers whose place is the same."""
        for name, issuer in self._issuers.items():
            known = previous._issuers.get(name)
            is_same = known is not None and known.jwks_url == issuer.jwks_url is not None
            if is_same and name in previous._key_sets:
                self._key_sets[name] = previous._key_sets[name]

    def set_keys(self, issuer: str, keys: KeySet) -> None:
        """The issuer's keys are these from now on; tokens under withdrawn ones open nothing any more."""
        self._key_sets[issuer] = keys
        self._seen.clear()

    def check(self, token: bytes, now_s: float) -> Principal:
        """The principal that `token` stands for.

        Raises:
            UnknownKeyError: its `kid` is not among the issuer's keys.
            TokenRefusedError: anything else is wrong with it.
        """
        digest = hashlib.sha256(token).digest()
        found = self._seen.get(digest)
        if found is None:
            found = self._verify(token, now_s)
            self._seen[digest] = found
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        if found.expires_s <= now_s:
            self._seen.pop(digest, None)
            raise TokenRefusedError("the token has expired")
        return found

    def _verify(self, token: bytes, now_s: float) -> Principal:
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenRefusedError(f"the token is over {MAX_TOKEN_BYTES} bytes")
        try:
            unproved = jwt.decode_complete(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise TokenRefusedError("it is not a signed token (JWT)") from None
        issuer = self._issuer_of(unproved["payload"])
        key = self._key_of(issuer, unproved["header"])
        try:
            claims = jwt.decode(
                token, key.key, algorithms=[unproved["header"]["alg"]], audience=issuer.audience, issuer=issuer.issuer,
                leeway=issuer.leeway_seconds,
                # Times are judged below, by the clock that was given to us; of the others nothing is used.
                options={
                    "require": REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False,
                    "verify_sub": False, "verify_jti": False,
                },
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError) as error:
            raise TokenRefusedError(_REASONS.get(type(error), "its signature or claims are wrong")) from None
        return self._principal(issuer, claims, now_s)

    def _issuer_of(self, unproved: Mapping[str, Any]) -> Issuer:
        name = unproved.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise TokenRefusedError("its issuer (iss) is not among those configured")
        return issuer

    def _key_of(self, issuer: Issuer, header: Mapping[str, Any]) -> PublicKey:
        kid, algorithm = header.get("kid"), header.get("alg")
        if algorithm not in issuer.algorithms:
            raise TokenRefusedError("its algorithm (alg) is not among those of the issuer")
        keys = self._key_sets.get(issuer.issuer)
        key = keys.find(kid) if keys is not None and isinstance(kid, str) else None
        if key is None:
            raise UnknownKeyError("its key (kid) is not among those of the issuer")
        if not key.fits(str(algorithm)):
            raise TokenRefusedError("its algorithm (alg) does not fit the key")
        return key

    def _principal(self, issuer: Issuer, claims: Mapping[str, Any], now_s: float) -> Principal:
        expires_s = _number(claims, "exp") + issuer.leeway_seconds
        if "nbf" in claims and _number(claims, "nbf") - issuer.leeway_seconds > now_s:
            raise TokenRefusedError("the token is not valid yet (nbf)")
        name = claims.get(issuer.tenant_claim)
        tenant = self._tenants.get(name) if isinstance(name, str) else None
        if tenant is None:
            raise TokenRefusedError(f"its claim {issuer.tenant_claim!r} names no tenant")
        return principal_of(
            tenant,
            f"token of {issuer.issuer}",
            models=_names(claims, issuer.models_claim),
            regions=_names(claims, issuer.regions_claim),
            expires_s=expires_s,
        )


_REASONS: dict[type[Exception], str] = {
    jwt.InvalidSignatureError: "its signature is wrong",
    jwt.InvalidAudienceError: "its audience (aud) is not ours",
    jwt.InvalidIssuerError: "its issuer (iss) is not among those configured",
    jwt.MissingRequiredClaimError: f"it lacks one of the claims {', '.join(REQUIRED)}",
    jwt.InvalidAlgorithmError: "its algorithm (alg) is not among those of the issuer",
}


def _number(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise TokenRefusedError(f"its claim {name!r} is not a time")
    return float(value)


def _names(claims: Mapping[str, Any], claim: str | None) -> frozenset[str] | None:
    """What the claim lists; a claim that is configured and missing allows nothing."""
    if claim is None:
        return None
    value = claims.get(claim, [])
    names = value.split() if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TokenRefusedError(f"its claim {claim!r} is not a list of names")
    return frozenset(names)
