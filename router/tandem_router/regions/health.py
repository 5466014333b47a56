"""Whether a peer region is alive, from its streams of digests. Times are seconds of one monotonic clock.

Down = every stream silent for 300 ms **and** a reconnect failed since: a rollout of the peer's routers moves the
streams to other replicas, and is none. A planned close says goaway and is none either. What comes back after having
been down gets its share back over 30 s: its caches are cold, and everybody's requests would come at once. After less
than two seconds the ramp is shorter in proportion.

A partition may cut one way only: its digests reach us, and nothing of ours reaches it. Pings that are not answered tell
that before requests have to.
"""

from dataclasses import dataclass, field

SILENCE_S = 0.3
RAMP_S = 30.0
RAMP_PER_DOWN = 15.0  # who was away for less than two seconds has his caches still, and few who wait for him
FIRST_SHARE = 0.05  # of a peer that has just come back: none at all would never prove that it serves
STRIKES = 3  # forwards that failed one after the other: its digests reach us, and our requests do not reach it
MISSES = 2  # pings not answered, one after the other; the second goes over a connection of its own
STRIKE_OUT_S = 1.0
STRIKE_OUT_MAX_S = 30.0


@dataclass
class PeerHealth:
    """One peer, as one router knows it. It begins unknown: given nothing until it is heard."""

    heard_s: dict[str, float] = field(default_factory=dict)  # by stream
    is_down: bool = True
    is_mute: bool = False  # what we send does not reach it
    _misses: int = 0
    _refused_s: float | None = None
    _ramp_from_s: float | None = None
    _ramp_s: float = RAMP_S
    _lost_s: float = 0.0  # when it was lost
    _strikes: int = 0
    _out_until_s: float = 0.0
    _out_for_s: float = STRIKE_OUT_S

    def hear(self, stream: str, now_s: float) -> None:
        """A digest came."""
        if self.is_down:
            if self.heard_s:
                self._begin_ramp(now_s)
            self.is_down = False
        self.heard_s[stream] = now_s
        self._refused_s = None

    def close(self, stream: str) -> None:
        """A stream ended, by goaway or by itself; the other one, or a new one, goes on."""
        if stream in self.heard_s and len(self.heard_s) > 1:
            del self.heard_s[stream]

    def refuse(self, now_s: float) -> None:
        """A reconnect failed."""
        self._refused_s = now_s
        self.look(now_s)

    def look(self, now_s: float) -> bool:
        """Judge anew; whether it is down. Call it at least every 100 ms."""
        newest_s = max(self.heard_s.values(), default=-1e18)
        is_silent = now_s - newest_s >= SILENCE_S
        if not self.is_down and is_silent and self._refused_s is not None and self._refused_s >= newest_s:
            self.is_down = True
            self._lost_s = newest_s
        return self.is_down

    def answer(self, now_s: float) -> None:
        """A ping was answered."""
        self._misses = 0
        if self.is_mute:
            self.is_mute = False
            self._begin_ramp(now_s)

    def miss(self, now_s: float) -> None:
        """A ping was not answered in time."""
        self._misses += 1
        if self._misses == MISSES and not self.is_mute:
            self.is_mute = True
            self._lost_s = now_s if not self.is_down else self._lost_s

    def _begin_ramp(self, now_s: float) -> None:
        self._ramp_from_s = now_s
        self._ramp_s = min(RAMP_S, max(0.001, RAMP_PER_DOWN * (now_s - self._lost_s)))

    def strike(self, now_s: float) -> None:
        """A request forwarded there failed before the first byte. One that was on its way at a pause adds nothing."""
        if now_s < self._out_until_s:
            return
        self._strikes += 1
        if self._strikes >= STRIKES:
            self._out_until_s = now_s + self._out_for_s
            self._out_for_s = min(2.0 * self._out_for_s, STRIKE_OUT_MAX_S)
            self._strikes = STRIKES - 1  # one more failure after the pause is enough

    def succeed(self) -> None:
        """A request forwarded there was answered."""
        self._strikes = 0
        self._out_for_s = STRIKE_OUT_S

    def accepts(self, now_s: float) -> float:
        """Share of what it could be given, 0 to 1."""
        if self.look(now_s) or self.is_mute or now_s < self._out_until_s:
            return 0.0
        if self._ramp_from_s is None:
            return 1.0
        return min(1.0, max(FIRST_SHARE, (now_s - self._ramp_from_s) / self._ramp_s))
