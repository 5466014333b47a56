"""Which replicas there are, as far as shares go. Pure.

Silence proves nothing: a replica that cannot be heard may be serving, so it keeps its share. A connection that is
refused proves that nobody serves there. A replica that leaves is waited for before its share is taken, and one that has
just started waits before it uses its own, so that two views that differ for a moment do not add up to more than all.
"""

from collections.abc import Iterable
from dataclasses import dataclass

GRACE_S = 2.0
JOIN_S = 1.0  # longer than a loan, and than the time in which all others hear of a newcomer


@dataclass(slots=True)
class _Peer:
    refused_since_s: float | None = None
    gone_since_s: float | None = None


class Membership:
    """Members by address, this replica among them. Times are of one clock."""

    def __init__(self, own: str, started_s: float) -> None:
        self.own = own
        self._started_s = started_s
        self._peers: dict[str, _Peer] = {}

    def discover(self, addresses: Iterable[str], now_s: float) -> None:
        """The other replicas that there should be."""
        wanted = {address for address in addresses if address != self.own}
        for address in wanted:
            self._peers.setdefault(address, _Peer()).gone_since_s = None
        for address, peer in self._peers.items():
            if address not in wanted and peer.gone_since_s is None:
                peer.gone_since_s = now_s

    def note_answer(self, address: str) -> None:
        """Somebody is there."""
        if address in self._peers:
            self._peers[address].refused_since_s = None

    def note_refused(self, address: str, now_s: float) -> None:
        """A connection was refused: nobody listens."""
        peer = self._peers.get(address)
        if peer is not None and peer.refused_since_s is None:
            peer.refused_since_s = now_s

    def peers(self) -> list[str]:
        """Whom to talk to: also those that refuse, for they may come back."""
        return [address for address, peer in self._peers.items() if peer.gone_since_s is None]

    def members(self, now_s: float) -> list[str]:
        """Who owns shares now, in order."""
        for address in [address for address, peer in self._peers.items() if is_past(peer.gone_since_s, now_s)]:
            del self._peers[address]
        alive = [address for address, peer in self._peers.items() if not is_past(peer.refused_since_s, now_s)]
        return sorted([*alive, self.own])

    def may_use_own(self, now_s: float) -> bool:
        """The own share may be used: alone, or not just started."""
        return not self._peers or now_s - self._started_s >= JOIN_S


def is_past(since_s: float | None, now_s: float) -> bool:
    """It has been so for the time of grace."""
    return since_s is not None and now_s - since_s >= GRACE_S
