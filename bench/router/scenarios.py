"""What is measured: each scenario is a load, and the unit that its cost is divided by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """One load.

    Attributes:
        events: events of each streamed answer; 0 for one document per request.
        is_split: prefill and decode run on different engines.
        is_latency: one request at a time, to read what the router adds to the time of a direct answer.
    """

    name: str
    requests: int
    concurrency: int
    prompt_bytes: int = 1024
    events: int = 0
    is_split: bool = False
    is_latency: bool = False

    def arguments(self, salt: str, share: float) -> list[str]:
        """Arguments of the clients; `share` is the part of the full load to play."""
        requests, concurrency = max(1, round(self.requests * share)), self.concurrency
        if self.events:
            concurrency = max(1, round(concurrency * share))
        values = {
            "requests": requests,
            "concurrency": min(concurrency, requests),
            "prompt-bytes": self.prompt_bytes,
            "events": self.events,
            "salt": salt,
        }
        return [text for name, value in values.items() for text in (f"-{name}", str(value))]


GAP_MS = 10  # between two events of a stream
REQUEST = Scenario("request", 2000, 16)
LARGE = Scenario("request_64k", 400, 16, prompt_bytes=64 * 1024)
SPLIT = Scenario("split_request", 1500, 16, is_split=True)
EVENT = Scenario("event", 100, 100, events=150)
FIRST_BYTE = Scenario("first_byte", 300, 1, is_latency=True)
SCENARIOS = (REQUEST, LARGE, EVENT, FIRST_BYTE, SPLIT)

HELD_GAP_MS = 5000
HELD_EVENTS = 4
HELD_READ_AFTER_S = 10.0  # every stream is open by then, and none has ended (4 events, 5 s each)


def held(streams: int) -> Scenario:
    """Streams that are open at once and hardly send anything."""
    return Scenario("held", streams, streams, events=HELD_EVENTS)
