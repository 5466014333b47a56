"""Do the watches still bring what happens? A sweep that knows better, and is not caught up with, says no."""

from collections.abc import Callable, Iterable

from tandem_operator.kinds import Kind, Manifest

PATIENCE_S = 180.0  # a silent connection is given up after 70 s, and a reconnect lists what was missed

_Place = tuple[Kind, str, str]  # kind, namespace, name


class WatchCheck:
    """Compares what sweeps find with what events bring.

    An event that is merely late comes within seconds of the sweep that was faster; one that never comes means that
    the watch is dead, although its connection may look alive.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._awaited: dict[_Place, tuple[int, float]] = {}  # → version, and since when

    def note_sweep(
        self, kind: Kind, namespace: str | None, listed: Iterable[Manifest], news: Iterable[Manifest]
    ) -> None:
        """A list of a namespace, or of all: the events of `news` are to come, those of what is gone never will."""
        for obj in news:
            self._awaited.setdefault(_place(kind, obj), (_version(obj), self._clock()))
        present = {_place(kind, obj) for obj in listed}
        for place in list(self._awaited):
            if place[0] == kind and namespace in (None, place[1]) and place not in present:
                del self._awaited[place]

    def note_event(self, kind: Kind, obj: Manifest) -> None:
        """An event of whatever type."""
        place = _place(kind, obj)
        awaited = self._awaited.get(place)
        if awaited and _version(obj) >= awaited[0]:
            del self._awaited[place]

    def find_stale(self) -> Kind | None:
        """A kind of which no event comes any more."""
        oldest_s = self._clock() - PATIENCE_S
        return next((place[0] for place, (_, since_s) in self._awaited.items() if since_s < oldest_s), None)


def _place(kind: Kind, obj: Manifest) -> _Place:
    return kind, obj["metadata"]["namespace"], obj["metadata"]["name"]


def _version(obj: Manifest) -> int:
    return int(obj["metadata"]["resourceVersion"])
