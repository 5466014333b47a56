"""What came of the last loads, by the prefill engine's id of the request: whoever sent a request can ask for its KV."""

from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

from tandem_worker.kv.loads import LoadResult


@dataclass(frozen=True, slots=True)
class RecentLoad:
    """One rank's part of a load. Token counts are of the whole request, on every rank alike."""

    prefill: str
    bytes_received: int
    remote_tokens: int
    recomputed_tokens: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class RecentLoads:
    """The last `capacity` of them; an older one with the same id is replaced."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._loads: OrderedDict[str, RecentLoad] = OrderedDict()

    def remember(self, remote_request_id: str, prefill: str, result: LoadResult) -> None:
        self._loads[remote_request_id] = RecentLoad(
            prefill, result.bytes_received, result.remote_tokens, result.recomputed_tokens
        )
        self._loads.move_to_end(remote_request_id)
        if len(self._loads) > self._capacity:
            self._loads.popitem(last=False)

    def find(self, remote_request_id: str) -> RecentLoad | None:
        return self._loads.get(remote_request_id)
