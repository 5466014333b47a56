"""What a rank counts, as its local socket reports it. Only the KV thread writes."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Counters:
    """Totals since the start. Token counts are kept on tensor-parallel rank 0 only, so that ranks may be summed.

    vLLM's own prompt-source metric still counts a whole prompt as remote after a partial failure; these do not.
    """

    transfers: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    transfer_seconds: float = 0.0
    recomputed_tokens: int = 0
    remote_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)  # sessions over another transport than asked for

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"failures": dict(self.failures), "fallbacks": dict(self.fallbacks)}
