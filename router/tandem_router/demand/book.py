"""The demand of one fleet as it happens: the open second, and the levels of now. Pure: time and chance come in."""

from dataclasses import dataclass, fields

from tandem_router.demand.archive import ClosedSecond
from tandem_router.demand.sample import Reservoir, Row


@dataclass(slots=True)
class OpenBin:
    """Sums of the second that is not over yet; names and meaning as in `tandem_api.router.DemandBin`."""

    arrivals: int = 0
    new_tokens: float = 0.0
    square_tokens: float = 0.0
    prompt_tokens: float = 0.0
    finished: int = 0
    failed: int = 0
    held_s: float = 0.0
    held_kv_s: float = 0.0


BIN_FIELDS = tuple(field.name for field in fields(OpenBin))


class DemandBook:
    """What comes, ends, and is held. Times are Unix seconds.

    Attributes:
        held: requests on decode workers.
        held_tokens: KV tokens of these: prompts, and what they have produced so far.
    """

    def __init__(self, uid: str, now_s: float) -> None:
        self._uid = uid
        self._bin = OpenBin()
        self._arrivals = Reservoir()
        self._endings = Reservoir()
        self._counted_s = now_s
        self.held = 0
        self.held_tokens = 0

    def arrive(self, row: Row, draw: float) -> None:
        """A request came. `row`: (Unix time, new tokens, cached tokens, TTFT target)."""
        new, cached = row[1] or 0.0, row[2] or 0.0
        now = self._bin
        now.arrivals += 1
        now.new_tokens += new
        now.square_tokens += new * (new + 2.0 * cached)
        now.prompt_tokens += new + cached
        self._arrivals.offer(row, draw)

    def end(self, row: Row, draw: float) -> None:
        """A request ended. `row`: the fields of `EndingRecord` but its weight."""
        self._bin.finished += 1
        self._bin.failed += bool(row[1])
        self._endings.offer(row, draw)

    def hold(self, tokens: int, now_s: float) -> None:
        """A decode worker begins with a request of so many tokens."""
        self.advance(now_s)
        self.held += 1
        self.held_tokens += tokens

    def let_go(self, tokens: int, now_s: float) -> None:
        """A decode worker is done with a request that has come to so many tokens."""
        self.advance(now_s)
        self.held -= 1
        self.held_tokens -= tokens

    def advance(self, now_s: float) -> None:
        """Integrate what is held up to now; a clock that went back adds nothing."""
        elapsed_s = now_s - self._counted_s
        self._counted_s = now_s
        if self.held and elapsed_s > 0.0:
            self._bin.held_s += self.held * elapsed_s
            self._bin.held_kv_s += self.held_tokens * elapsed_s

    def close_second(self, now_s: float) -> ClosedSecond | None:
        """Begin a new second, and give what the last one brought; None when it was silent."""
        self.advance(now_s)
        ended, self._bin = self._bin, OpenBin()
        sums = {name: value for name in BIN_FIELDS if (value := getattr(ended, name))}
        if not sums:
            return None
        arrivals, endings = self._arrivals, self._endings
        self._arrivals, self._endings = Reservoir(), Reservoir()
        packed_arrivals, packed_endings = arrivals.pack(), endings.pack()
        return ClosedSecond(self._uid, sums, packed_arrivals, packed_endings, arrivals.kept + endings.kept)
