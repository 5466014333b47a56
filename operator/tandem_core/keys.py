"""Derivation of every key from the installation's root secret (HKDF-SHA256, RFC 5869).

    root ── "router" ──► router key ── "engine:<fleet uid>" ──► bearer of that fleet's engines
      │                       └─────── "internal" ────────────► bearer of the routers' internal listener
      └── "kv:<fleet uid>" ──► signs kv_transfer_params and HELLO of that fleet

A router holds only the router key: it can ask engines for tokens, and can never forge a KV transfer.

Beside each key there may be a `*.previous`: another key that is accepted, and that nobody uses by choice. A rotation
gives the new key out as that one first, then swaps the two, then takes the old one away.
"""

import base64
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tandem_core.key_files import (
    ENGINE_KEY_FILE,
    ENGINE_PREVIOUS_FILE,
    KEY_ID_FILE,
    KV_KEY_FILE,
    KV_PREVIOUS_FILE,
)

__all__ = [
    "ENGINE_KEY_FILE",
    "ENGINE_PREVIOUS_FILE",
    "KEY_ID_FILE",
    "KV_KEY_FILE",
    "KV_PREVIOUS_FILE",
    "RootKeys",
    "decode_key",
    "derive_engine_token",
    "derive_internal_token",
    "derive_kv_key",
    "derive_router_key",
    "encode_key",
    "fleet_secret_name",
]

KEY_BYTES = 32

ROOT_SECRET = "tandem-root"  # noqa: S105 - names, not secrets
ROUTER_SECRET = "tandem-router"  # noqa: S105
ROOT_KEY_FILE = "root.key"
ROOT_PREVIOUS_FILE = "root.previous"
ROUTER_KEY_FILE = "router.key"
ROUTER_PREVIOUS_FILE = "router.previous"


@dataclass(frozen=True)
class RootKeys:
    """The root that everything is derived from, and another that is accepted too while keys are being rotated."""

    current: bytes = field(repr=False)
    previous: bytes | None = field(default=None, repr=False)

    def internal_tokens(self) -> tuple[str, ...]:
        """Bearers of the routers' internal listener, the usual one first."""
        roots = (self.current, self.previous)
        return tuple(derive_internal_token(derive_router_key(root)) for root in roots if root is not None)


def fleet_secret_name(fleet: str) -> str:
    """Name of the Secret that holds the keys of the InferenceDeployment named `fleet`."""
    return f"{fleet}-keys"


def derive_router_key(root: bytes) -> bytes:
    """Key that the routers mount."""
    return _derive(root, "router")


def derive_internal_token(router_key: bytes) -> str:
    """Bearer token of the routers' internal listener, base64url text."""
    return encode_key(_derive(router_key, "internal"))


def derive_engine_token(router_key: bytes, fleet_uid: str) -> str:
    """Bearer token that the engines of one fleet ask of whoever calls them, base64url text."""
    return encode_key(_derive(router_key, f"engine:{fleet_uid}"))


def derive_kv_key(root: bytes, fleet_uid: str) -> bytes:
    """Key with which the workers of one fleet sign kv_transfer_params."""
    return _derive(root, f"kv:{fleet_uid}")


def encode_key(key: bytes) -> str:
    """Text form of a key in files and headers: base64url without padding."""
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode()


def decode_key(text: str) -> bytes:
    """Inverse of `encode_key`.

    Raises:
        ValueError: the text is not base64url of `KEY_BYTES` bytes.
    """
    text = text.strip()
    key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, this one {len(key)}")
    return key


def _derive(secret: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"tandem/v1/" + purpose.encode()).derive(secret)
