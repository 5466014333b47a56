"""What this router sent to other regions: prefixes that they have cached since, and what their digests cannot know yet.

Pure. Prompts of different regions hardly share prefixes (`research/router.md` §2), so a region's own record of what it
sent where is all the prefix knowledge that a choice between regions needs.
"""

from collections import deque
from collections.abc import Sequence

from tandem_router.policy.prefix_index import PrefixIndex

SETTLING_S = 0.15  # a request is in the digests of its region's other routers so much later than it arrives
KEPT_S = 10.0
INDEX_BLOCKS = 65_536


class SentPrefixes:
    """Which peers were sent which prompt prefixes. Peers go by a bit."""

    def __init__(self, capacity_blocks: int = INDEX_BLOCKS) -> None:
        self._index = PrefixIndex(capacity_blocks)

    def note(self, blocks: Sequence[int], bit: int) -> None:
        """A prompt was sent to a peer."""
        self._index.insert(blocks, bit)

    def hits(self, blocks: Sequence[int], bits: Sequence[int]) -> dict[int, int]:
        """Leading blocks that each peer was sent before."""
        return self._index.hits(blocks, bits)

    def forget(self, bit: int) -> None:
        """The peer is gone, or was away for so long that its caches are others'."""
        self._index.forget(bit)


class SentLately:
    """Requests of one fleet that went to one region within the last seconds. Times are of one monotonic clock."""

    __slots__ = ("_recent", "tokens")

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque()
        self.tokens = 0

    def note(self, now_s: float, tokens: int) -> None:
        """A request with so many prompt tokens to compute goes there."""
        self._recent.append((now_s, tokens))
        self.tokens += tokens

    def since(self, known_until_s: float) -> tuple[int, int]:
        """(requests, tokens) that went there after the moment until which its load is known."""
        recent = self._recent
        while recent and recent[0][0] <= known_until_s:
            self.tokens -= recent.popleft()[1]
        return len(recent), self.tokens
