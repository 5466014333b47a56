"""Secret `<fleet>-keys`: what the workers of a fleet need to check callers and sign KV transfers."""

import base64
import hashlib

from tandem_core import keys
from tandem_operator.kinds import SECRET, Manifest
from tandem_operator.model import Fleet, FleetKeys
from tandem_operator.resources.metadata import build_metadata, owned_by_fleet

_KEY_ID_LENGTH = 8


def derive_fleet_keys(root: bytes, fleet_uid: str) -> FleetKeys:
    """Key files of one fleet, derived (never drawn), so that a lost Secret comes back the same."""
    kv_key = keys.derive_kv_key(root, fleet_uid)
    router_key = keys.derive_router_key(root)
    return FleetKeys(
        {
            keys.ENGINE_KEY_FILE: keys.derive_engine_token(router_key, fleet_uid),
            keys.KV_KEY_FILE: keys.encode_key(kv_key),
            keys.KEY_ID_FILE: hashlib.sha256(kv_key).hexdigest()[:_KEY_ID_LENGTH],
        }
    )


def build_keys_secret(fleet: Fleet, fleet_keys: FleetKeys) -> Manifest:
    """The Secret that worker pods mount."""
    return {
        "apiVersion": SECRET.api_version,
        "kind": SECRET.name,
        "metadata": build_metadata(fleet, keys.fleet_secret_name(fleet.key.name), owned_by_fleet(fleet)),
        "type": "Opaque",
        "data": {name: base64.b64encode(text.encode()).decode() for name, text in fleet_keys.files.items()},
    }
