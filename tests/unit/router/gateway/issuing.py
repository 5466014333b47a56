"""Makes keys, JWKS documents and tokens for tests."""

import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tandem_router.gateway.config import Issuer, Tenant

ISSUER = "https://id.example.com"
AUDIENCE = "tandem"
NOW_S = 1_800_000_000.0


class Signer:
    """An issuer's private key under one `kid`."""

    def __init__(self, kid: str = "k1", algorithm: str = "ES256") -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.private = _MAKE[algorithm[:2]]()
        kind = jwt.get_algorithm_by_name(algorithm)
        self.public: dict[str, Any] = json.loads(kind.to_jwk(self.private.public_key())) | {"kid": kid, "use": "sig"}

    def sign(self, headers: dict[str, Any] | None = None, **claims: Any) -> bytes:
        """A token; a claim of None is left out."""
        body = {"iss": ISSUER, "aud": AUDIENCE, "exp": NOW_S + 600, "tenant": "acme"} | claims
        body = {name: value for name, value in body.items() if value is not None}
        header = {"kid": self.kid} | (headers or {})
        return jwt.encode(body, self.private, algorithm=self.algorithm, headers=header).encode()


_MAKE = {
    "ES": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RS": lambda: rsa.generate_private_key(65537, 2048),
    "PS": lambda: rsa.generate_private_key(65537, 2048),
    "Ed": ed25519.Ed25519PrivateKey.generate,
}


def issuer_of(*signers: Signer, **fields: Any) -> Issuer:
    """An issuer who shows the keys of `signers`."""
    values = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": {"keys": [signer.public for signer in signers]}}
    return Issuer.model_validate(values | fields)


ACME = Tenant(name="acme", models=("llama", "mistral"))
