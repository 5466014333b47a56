"""What both sides of a rank work with."""

from collections.abc import Mapping
from dataclasses import dataclass

from tandem_worker.kv.counters import Counters
from tandem_worker.kv.datapath import Pace
from tandem_worker.kv.guards import Guard
from tandem_worker.kv.layout import KvLayout
from tandem_worker.kv.transport import Transport


@dataclass(frozen=True)
class Wiring:
    """One per rank; `transports` by name."""

    guard: Guard
    transports: Mapping[str, Transport]
    layout: KvLayout
    pace: Pace
    counters: Counters
