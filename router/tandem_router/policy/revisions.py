"""Chooses the kv-revision of a request: only workers of equal kv-revision are paired (DESIGN §1, §5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Readiness:
    """What is ready of one kv-revision.

    Attributes:
        prefill, decode: workers that can take requests.
        newest: RFC 3339 time at which its youngest worker was created.
    """

    prefill: int
    decode: int
    newest: str

    def is_pair(self, *, has_prefill: bool) -> bool:
        """Requests can be served as the fleet is meant to."""
        return self.decode > 0 and (self.prefill > 0 or not has_prefill)


def choose_revision(
    ready: Mapping[str, Readiness], weights: Sequence[tuple[str, int]], draw: float, *, has_prefill: bool
) -> str | None:
    """The kv-revision that serves, None when no decode worker is ready.

    In this order: by weight among those with a ready pair; the newest with a ready pair; the newest that can
    serve at all, with local prefill.

    Args:
        weights: (kv-revision, percent), from the fleet's status.
        draw: a number in [0, 1).
    """
    pairs = {name: one for name, one in ready.items() if one.is_pair(has_prefill=has_prefill)}
    weighted = [(name, percent) for name, percent in weights if percent > 0 and name in pairs]
    if weighted:
        return draw_weighted(weighted, draw)
    able = pairs or {name: one for name, one in ready.items() if one.decode}
    return max(able, key=lambda name: (able[name].newest, name), default=None)


def draw_weighted(weighted: Sequence[tuple[str, int]], draw: float) -> str:
    """One name, with probability in proportion to its weight."""
    point = draw * sum(weight for _, weight in weighted)
    for name, weight in weighted:
        point -= weight
        if point < 0:
            return name
    return weighted[-1][0]
