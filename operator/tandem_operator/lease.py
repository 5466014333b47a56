"""Leadership by a Lease of the coordination API: at most one replica writes.

A leader counts itself out by its own monotonic clock before anybody else may take over: it renews every 2 s, stops
writing 10 s after its last renewal, and others wait until the record has not changed for 15 s of *their* clock. Wall
clocks are written for people and never compared.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from tandem_operator.cluster import Cluster
from tandem_operator.errors import ApiError, Conflict, NotFound, NotLeader
from tandem_operator.kinds import LEASE, Manifest
from tandem_operator.resources.names import OPERATOR_MANAGER

LEASE_DURATION_S = 15.0
RENEW_DEADLINE_S = 10.0
RENEW_PERIOD_S = 2.0
WATCH_PERIOD_S = 1.0  # of those who wait: what they notice late, they take over late

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observation:
    """A holder's record, and when we first saw it so (monotonic seconds)."""

    version: str
    seen_at_s: float


class Tenure:
    """Whether this replica may write now. Checked before each write, so it only reads a clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until_s = float("-inf")

    def extend(self, renewed_at_s: float) -> None:
        """Counts from the moment *before* the renewal was sent."""
        self._until_s = renewed_at_s + RENEW_DEADLINE_S

    def end(self) -> None:
        """Gives up at once."""
        self._until_s = float("-inf")

    @property
    def is_held(self) -> bool:
        """Whether the lease is surely ours."""
        return self._clock() < self._until_s

    def check(self) -> None:
        """Raises NotLeader when it may be another's."""
        if not self.is_held:
            raise NotLeader("the lease may be held by another replica")


def can_take(lease: Manifest, observed: Observation, identity: str, now_s: float) -> bool:
    """Whether a replica may write itself into an existing lease."""
    holder = lease["spec"].get("holderIdentity")
    return holder in (None, "", identity) or now_s - observed.seen_at_s >= LEASE_DURATION_S


def build_lease(namespace: str, name: str, identity: str, now: datetime, transitions: int) -> Manifest:
    """The record of a holder."""
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": LEASE.api_version,
        "kind": LEASE.name,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "holderIdentity": identity,
            "leaseDurationSeconds": int(LEASE_DURATION_S),
            "acquireTime": stamp,
            "renewTime": stamp,
            "leaseTransitions": transitions,
        },
    }


class Elector:
    """Acquires, renews and releases the lease."""

    def __init__(
        self, cluster: Cluster, tenure: Tenure, clock: Callable[[], float], place: tuple[str, str, str]
    ) -> None:
        self._cluster, self._tenure, self._clock = cluster, tenure, clock
        self._namespace, self._name, self._identity = place
        self._observed: Observation | None = None
        self.is_connected = True  # whether the API server answered the last attempt

    async def step(self) -> None:
        """One attempt to acquire or renew."""
        before_s = self._clock()
        try:
            lease = await self._fetch_or_create()
            if self._may_hold(lease):
                await self._cluster.replace_lease(self._renewed(lease))
                self._tenure.extend(before_s)
            else:
                self._tenure.end()
            self.is_connected = True
        except Conflict:
            self._tenure.end()  # another replica was faster
        except ApiError as error:
            if self.is_connected:
                _log.warning("lease not renewed, trying on: %s", error)  # the tenure runs out by itself
            self.is_connected = False

    def next_step_s(self) -> float:
        """Seconds until the next attempt: at once when somebody's lease runs out."""
        if not self.is_connected:
            return WATCH_PERIOD_S
        if self._tenure.is_held or self._observed is None:
            return RENEW_PERIOD_S
        left_s = self._observed.seen_at_s + LEASE_DURATION_S - self._clock()
        return min(max(left_s, 0.05), WATCH_PERIOD_S)

    async def release(self) -> None:
        """Lets the next replica in at once."""
        if not self._tenure.is_held:
            return
        self._tenure.end()
        try:
            lease = await self._cluster.fetch(LEASE, self._namespace, self._name)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._cluster.replace_lease(lease)
        except ApiError as error:
            _log.warning("lease not released: %s", error)

    async def _fetch_or_create(self) -> Manifest:
        try:
            return await self._cluster.fetch(LEASE, self._namespace, self._name)
        except NotFound:
            lease = build_lease(self._namespace, self._name, self._identity, datetime.now(UTC), 0)
            return await self._cluster.create(lease, OPERATOR_MANAGER, fenced=False)

    def _may_hold(self, lease: Manifest) -> bool:
        version = lease["metadata"]["resourceVersion"]
        if self._observed is None or self._observed.version != version:
            self._observed = Observation(version, self._clock())
        return can_take(lease, self._observed, self._identity, self._clock())

    def _renewed(self, lease: Manifest) -> Manifest:
        spec = lease["spec"]
        mine = spec.get("holderIdentity") == self._identity
        transitions = spec.get("leaseTransitions", 0) + (not mine)
        fresh = build_lease(self._namespace, self._name, self._identity, datetime.now(UTC), transitions)
        if mine:
            fresh["spec"]["acquireTime"] = spec.get("acquireTime")
        return {**lease, "spec": fresh["spec"]}
