"""Which edges (prefill → decode worker) are proved, failing or untested, and which is to be probed next. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

SETTLE_S = 5.0  # real traffic may prove a new edge before a probe has to
INTERVAL_S = 60.0  # between two probes of one fleet


class Edge(NamedTuple):
    """One pair of one start of each of its engines."""

    kv_revision: str
    prefill: str
    prefill_start: str
    decode: str
    decode_start: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen of an edge.

    Attributes:
        moved: KV came whole; False: it did not.
        reason: why not.
    """

    moved: bool
    at_s: float
    bytes_received: int = 0
    remote_tokens: int = 0
    reason: str = ""


@dataclass
class EdgeBook:
    """The edges of one fleet. Times are of one clock."""

    _first_s: dict[Edge, float] = field(default_factory=dict)
    _found: dict[Edge, Finding] = field(default_factory=dict)
    _asked_s: dict[Edge, float] = field(default_factory=dict)
    _probed_s: float = float("-inf")

    def keep(self, edges: Iterable[Edge], now_s: float) -> None:
        """The edges that there are now; what is known of others is forgotten."""
        wanted = set(edges)
        for gone in [edge for edge in self._first_s if edge not in wanted]:
            for rows in (self._first_s, self._found, self._asked_s):
                rows.pop(gone, None)
        for edge in wanted:
            self._first_s.setdefault(edge, now_s)

    def note(self, edge: Edge, finding: Finding) -> None:
        """Something was seen of an edge."""
        if edge in self._first_s:
            self._found[edge] = finding

    def choose(self, now_s: float) -> Edge | None:
        """The edge to probe now, if it is time: never seen ones first, of workers without any proof before others."""
        if now_s - self._probed_s < INTERVAL_S:
            return None
        settled = [edge for edge, since_s in self._first_s.items() if now_s - since_s >= SETTLE_S]
        open_ = [edge for edge in settled if not self.is_proved(edge)]
        if not open_:
            return None
        proved = {end for edge in self._first_s if self.is_proved(edge) for end in (edge.prefill, edge.decode)}
        chosen = min(
            open_,
            key=lambda edge: (
                self._found[edge].at_s if edge in self._found else float("-inf"),
                (edge.prefill in proved) + (edge.decode in proved),
                edge,
            ),
        )
        self._probed_s = now_s
        return chosen

    def wants_proof(self, edge: Edge, now_s: float) -> bool:
        """Real traffic went over the edge: is it worth a question what became of it? At most one a minute is."""
        if edge not in self._first_s or now_s - self._asked_s.get(edge, float("-inf")) < INTERVAL_S:
            return False
        self._asked_s[edge] = now_s
        return True

    def is_proved(self, edge: Edge) -> bool:
        """KV has moved over it, the last time that anybody looked."""
        return edge in self._found and self._found[edge].moved

    def counts(self) -> tuple[int, int, int]:
        """(proved, failing, untested) edges."""
        moved = sum(finding.moved for finding in self._found.values())
        return moved, len(self._found) - moved, len(self._first_s) - len(self._found)

    def newest_failure(self) -> tuple[Edge, Finding] | None:
        """The failing edge that was looked at last."""
        failing = [(edge, finding) for edge, finding in self._found.items() if not finding.moved]
        return max(failing, key=lambda row: row[1].at_s, default=None)
