"""One peer region as this router knows it: what it told, how far away it is, what was sent there. Pure.

Times are seconds of this process's own monotonic clock; no clock of another machine is ever looked at.
"""

from dataclasses import dataclass, field

from tandem_router.regions.health import PeerHealth
from tandem_router.regions.load import FleetLoad
from tandem_router.regions.messages import FleetDigest, RegionDigest
from tandem_router.regions.sent import SETTLING_S, SentLately
from tandem_router.snapshot import RegionSpec

RTT_WEIGHT = 0.2  # of the newest measurement
RTT_NOISE_S = 0.05  # a router that is late for a moment is no longer way
UNSEEN = FleetLoad()
STATES = ("up", "down", "unknown", "drained", "no_url")


@dataclass(slots=True)
class StreamView:
    """What one stream has told, line by line."""

    heard_s: float
    fleets: dict[str, FleetDigest] = field(default_factory=dict)
    is_draining: bool = False


@dataclass(slots=True)
class Peer:
    """One peer region.

    Attributes:
        bit: it in the record of prefixes that were sent.
        rtt_s: the way there and back, smoothed; None until it was measured.
        fault: why it cannot be used, in words; empty without.
        state, since_s: what it was when last looked at, and since when.
    """

    spec: RegionSpec
    bit: int
    health: PeerHealth = field(default_factory=PeerHealth)
    rtt_s: float | None = None
    fault: str = ""
    state: str = "unknown"
    since_s: float = 0.0
    _streams: dict[str, StreamView] = field(default_factory=dict)
    _sent: dict[str, SentLately] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The region's name."""
        return self.spec.name

    @property
    def is_drained(self) -> bool:
        """It is to be given nothing: its object here says so, or it does itself."""
        view = self._newest()
        return self.spec.drain or (view is not None and view.is_draining)

    # --- what is heard ------------------------------------------------------------------------------------------

    def hear(self, stream: str, digest: RegionDigest, now_s: float) -> None:
        """A line came over one of its streams."""
        view = self._streams.get(stream)
        if view is None:
            view = self._streams[stream] = StreamView(now_s)
        view.heard_s, view.is_draining = now_s, digest.drain
        if digest.full:
            view.fleets.clear()
        view.fleets.update(digest.fleets)
        for key in digest.gone:
            view.fleets.pop(key, None)
        self.health.hear(stream, now_s)
        self.fault = ""

    def close(self, stream: str) -> None:
        """A stream ended; what it told stays only while no other one tells."""
        if len(self._streams) > 1:
            self._streams.pop(stream, None)
        self.health.close(stream)

    def measure(self, rtt_s: float) -> None:
        """The way there and back took so long once; one that has become much longer is believed at once."""
        if self.rtt_s is None or rtt_s > 2.0 * self.rtt_s + RTT_NOISE_S:
            self.rtt_s = rtt_s
        else:
            self.rtt_s += RTT_WEIGHT * (rtt_s - self.rtt_s)

    def look(self, now_s: float) -> bool:
        """Judge its state anew; whether it has changed."""
        before = self.state
        self.state = self._judge(now_s)
        if self.state != before:
            self.since_s = now_s
        return self.state != before

    def _judge(self, now_s: float) -> str:
        if self.spec.url is None:
            return "no_url"
        is_down = self.health.look(now_s)
        if not self.health.heard_s:
            return "unknown"
        if is_down or self.health.is_mute:
            return "down"
        return "drained" if self.is_drained else "up"

    # --- what a choice needs ------------------------------------------------------------------------------------

    def digest(self, fleet: str) -> FleetDigest | None:
        """What it said last of a fleet (`namespace/name`); None: it does not know it."""
        view = self._newest()
        return None if view is None else view.fleets.get(fleet)

    def fleets(self) -> dict[str, FleetDigest]:
        """What it said last, by fleet."""
        view = self._newest()
        return {} if view is None else view.fleets

    def load(self, fleet: str, served_name: str) -> FleetLoad:
        """What a request of the fleet would meet there. A fleet that serves another name there is another one."""
        digest = self.digest(fleet)
        return digest.load if digest is not None and digest.served_name == served_name else UNSEEN

    def accepts(self, now_s: float) -> float:
        """Share of what it could be given that it may be given now."""
        return 0.0 if self.spec.url is None or self.is_drained else self.health.accepts(now_s)

    def note_sent(self, fleet: str, tokens: int, now_s: float) -> None:
        """A request goes there."""
        self._sent.setdefault(fleet, SentLately()).note(now_s, tokens)

    def sent_since(self, fleet: str) -> tuple[int, int]:
        """(requests, tokens) that were sent there and that its digests cannot tell of yet."""
        sent, view = self._sent.get(fleet), self._newest()
        if sent is None or view is None:
            return 0, 0
        return sent.since(view.heard_s - (self.rtt_s or 0.0) - SETTLING_S)

    def forget_fleets(self, known: set[str]) -> None:
        """Keep no account of fleets that are gone."""
        for fleet in self._sent.keys() - known:
            del self._sent[fleet]

    def _newest(self) -> StreamView | None:
        return max(self._streams.values(), key=lambda view: view.heard_s, default=None)
