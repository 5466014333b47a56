"""Which requests the engine takes: pure, and shared by the middleware inside vLLM and by the sim engine."""

import json
from dataclasses import dataclass
from pathlib import Path

HEALTH_PATH = "/health"  # the only path without a token: the kubelet and the supervisor probe it
INFLIGHT_PATH = "/tandem/v1/inflight"  # answered by the gate: how many requests are open in this engine
ERROR_HEADER = "x-tandem-error"
DRAIN_FILE = "draining"  # in run_dir; while it exists, new requests are refused


@dataclass(frozen=True)
class Refusal:
    """An error answer in OpenAI's shape. `kind` is also the value of the x-tandem-error header."""

    status: int
    kind: str
    message: str

    def to_body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": None, "code": self.status}
        return json.dumps({"error": error}).encode()


UNAUTHORIZED = Refusal(401, "unauthorized", "This engine takes requests from its fleet's routers only.")
DRAINING = Refusal(503, "draining", "This worker is shutting down: send the request to another.")


def needs_token(path: str) -> bool:
    """Whether a request to `path` must carry the fleet's bearer token."""
    return path != HEALTH_PATH


def is_work(method: str) -> bool:
    """Whether a request of `method` makes the engine compute, and so counts as in flight and is refused in a drain."""
    return method == "POST"


def decide_refusal(method: str, path: str, *, authorized: bool, draining: bool) -> Refusal | None:
    """The refusal of a request, or None when the engine shall have it."""
    if needs_token(path) and not authorized:
        return UNAUTHORIZED
    if draining and is_work(method):
        return DRAINING
    return None


def drain_file(run_dir: Path) -> Path:
    """Path by which the supervisor tells every API server process of the engine to refuse new work."""
    return run_dir / DRAIN_FILE
