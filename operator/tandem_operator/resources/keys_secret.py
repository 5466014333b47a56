"""Secret `<fleet>-keys`: what the workers of a fleet need to check callers and sign KV transfers."""

import base64
import hashlib

from tandem_core import keys
from tandem_core.keys import RootKeys
from tandem_operator.kinds import SECRET, Manifest
from tandem_operator.model import Fleet, FleetKeys
from tandem_operator.resources.metadata import build_metadata, owned_by_fleet

_KEY_ID_LENGTH = 8


def derive_fleet_keys(roots: RootKeys, fleet_uid: str) -> FleetKeys:
    """Key files of one fleet, derived (never drawn), so that a lost Secret comes back the same.

    The `*.previous` files are always there, empty outside of a rotation: what is taken away must be a difference.
    """
    kv_key = keys.derive_kv_key(roots.current, fleet_uid)
    return FleetKeys(
        {
            keys.ENGINE_KEY_FILE: _engine_token(roots.current, fleet_uid),
            keys.ENGINE_PREVIOUS_FILE: _engine_token(roots.previous, fleet_uid) if roots.previous else "",
            keys.KV_KEY_FILE: keys.encode_key(kv_key),
            keys.KV_PREVIOUS_FILE: keys.encode_key(keys.derive_kv_key(roots.previous, fleet_uid))
            if roots.previous
            else "",
            keys.KEY_ID_FILE: hashlib.sha256(kv_key).hexdigest()[:_KEY_ID_LENGTH],
        }
    )


def _engine_token(root: bytes, fleet_uid: str) -> str:
    return keys.derive_engine_token(keys.derive_router_key(root), fleet_uid)


def build_keys_secret(fleet: Fleet, fleet_keys: FleetKeys) -> Manifest:
    """The Secret that worker pods mount."""
    return {
        "apiVersion": SECRET.api_version,
        "kind": SECRET.name,
        "metadata": build_metadata(fleet, keys.fleet_secret_name(fleet.key.name), owned_by_fleet(fleet)),
        "type": "Opaque",
        "data": {name: base64.b64encode(text.encode()).decode() for name, text in fleet_keys.files.items()},
    }
