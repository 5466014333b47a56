"""Names of the files in which a fleet's keys are mounted. Apart from `keys`: who only reads needs no cryptography."""

ENGINE_KEY_FILE = "engine.key"
ENGINE_PREVIOUS_FILE = "engine.previous"
KV_KEY_FILE = "kv.key"
KV_PREVIOUS_FILE = "kv.previous"
KEY_ID_FILE = "kid"
