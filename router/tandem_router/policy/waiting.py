"""Who of those that wait starts next, and who is turned away when too many wait. Pure: `now_s` is an argument.

Order: priority class, then fairness between tenants, then the latest start time (`tandem_core.discipline`). Fairness is
a virtual token counter (Sheng et al., OSDI '24): the tenant that has been given the fewest tokens is next; one that
comes back from idleness starts at the least counter of those that wait, so that silence saves up no credit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tandem_core.discipline import DeadlineQueue

REMEMBERED_TENANTS = 4096


class Waiting(Protocol):
    """What the line needs to know of a request.

    Attributes:
        tenant: who asks.
        priority: higher is served first.
        tokens: prompt tokens that it wants computed.
        latest_start_s, target_s: see `tandem_core.discipline`.
    """

    @property
    def tenant(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def latest_start_s(self) -> float: ...
    @property
    def target_s(self) -> float: ...


T = TypeVar("T", bound=Waiting)


@dataclass(slots=True)
class _Part:
    requests: int = 0
    tokens: int = 0


class WaitingLine(Generic[T]):
    """Requests that wait for a worker, over all classes and tenants.

    Attributes:
        tokens: Σ over those that wait.
    """

    def __init__(self) -> None:
        self._classes: dict[int, dict[str, DeadlineQueue[T]]] = {}
        self._members: dict[T, None] = {}  # in order of arrival
        self._parts: dict[str, _Part] = {}  # by tenant
        self._served: dict[str, float] = {}
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[T]:
        return iter(self._members)

    def push(self, item: T) -> None:
        """One more waits."""
        tenant = item.tenant
        if tenant not in self._parts:
            self._rejoin(tenant)
        part = self._parts.setdefault(tenant, _Part())
        part.requests += 1
        part.tokens += item.tokens
        queue = self._classes.setdefault(item.priority, {}).setdefault(tenant, DeadlineQueue())
        queue.push(item, item.latest_start_s, item.target_s)
        self._members[item] = None
        self.tokens += item.tokens

    def first(self, now_s: float) -> T:
        """Who starts next.

        Raises:
            IndexError: nobody waits.
        """
        if not self._classes:
            raise IndexError("nobody waits")
        tenants = self._classes[max(self._classes)]
        served = self._served
        return tenants[min(tenants, key=lambda tenant: served.get(tenant, 0.0))].peek(now_s)

    def after_first(self, count: int) -> list[T]:
        """Up to so many of the first one's class and tenant that come after it."""
        if not self._classes:
            return []
        tenants = self._classes[max(self._classes)]
        return tenants[min(tenants, key=lambda tenant: self._served.get(tenant, 0.0))].after_first(count)

    def remove(self, item: T) -> None:
        """It starts, or gives up; nothing if it does not wait."""
        if item not in self._members:
            return
        del self._members[item]
        self.tokens -= item.tokens
        self._leave(item)
        tenants = self._classes[item.priority]
        tenants[item.tenant].remove(item)
        if not tenants[item.tenant]:
            del tenants[item.tenant]
        if not tenants:
            del self._classes[item.priority]

    def charge(self, tenant: str, tokens: float) -> None:
        """`tenant` was given service worth so many tokens."""
        self._served[tenant] = self._served.get(tenant, 0.0) + tokens

    def find_victim(self, newcomer: T) -> T:
        """Who is turned away when all of those that wait and `newcomer` are too many: perhaps the newcomer.

        The lowest class first; in it the tenant that holds most of the line; of its requests the one that can wait
        longest. A newcomer displaces nobody of its own standing.
        """
        lowest = min(self._classes, default=newcomer.priority)
        if newcomer.priority < lowest:
            return newcomer
        greediest = max(self._classes.get(lowest, {}), key=self._held, default=newcomer.tenant)
        if newcomer.priority == lowest and self._held(newcomer.tenant) + newcomer.tokens >= self._held(greediest):
            return newcomer
        those = [one for one in self._members if one.priority == lowest and one.tenant == greediest]
        return max(those, key=lambda one: one.latest_start_s)

    def _held(self, tenant: str) -> int:
        return self._parts[tenant].tokens if tenant in self._parts else 0

    def _rejoin(self, tenant: str) -> None:
        waiting = [self._served.get(other, 0.0) for other in self._parts]
        if waiting:
            self._served[tenant] = max(self._served.get(tenant, 0.0), min(waiting))
        if len(self._served) > REMEMBERED_TENANTS:
            self._served = {name: self._served.get(name, 0.0) for name in (*self._parts, tenant)}

    def _leave(self, item: T) -> None:
        part = self._parts[item.tenant]
        part.requests -= 1
        part.tokens -= item.tokens
        if not part.requests:
            del self._parts[item.tenant]
