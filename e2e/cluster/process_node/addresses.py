"""Addresses of pods: each pod has one of its own out of a range in 127.0.0.0/8."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from itertools import chain

LOOPBACK = IPv4Network("127.0.0.0/8")


class AddressError(ValueError):
    """A range that cannot serve pods, or that has no address left."""


class AddressPool:
    """Hands out host addresses in turn, so that a released one rests as long as possible."""

    def __init__(self, cidr: str) -> None:
        """Raises AddressError for a range that is not in 127.0.0.0/8 or smaller than a /30."""
        try:
            self._network = IPv4Network(cidr)
        except ValueError as error:
            raise AddressError(f"pod range {cidr!r} is not an IPv4 network: {error}") from error
        if not self._network.subnet_of(LOOPBACK) or self._network.num_addresses < 4:
            raise AddressError(f"pod range {cidr!r} must lie in 127.0.0.0/8 and be a /30 or larger")
        self._taken: set[IPv4Address] = set()
        self._next = 1

    def take(self, wanted: str | None = None) -> str:
        """A free address: the wanted one where possible. Raises AddressError when all are in use."""
        for address in chain(self._wanted(wanted), self._in_turn()):
            if address not in self._taken:
                self._taken.add(address)
                self._next = int(address) - int(self._network.network_address) + 1
                return str(address)
        raise AddressError(f"all {self._network.num_addresses - 2} addresses of {self._network} are in use")

    def release(self, address: str) -> None:
        self._taken.discard(IPv4Address(address))

    def _wanted(self, wanted: str | None) -> Iterator[IPv4Address]:
        if wanted and IPv4Address(wanted) in self._network:
            yield IPv4Address(wanted)

    def _in_turn(self) -> Iterator[IPv4Address]:
        hosts = self._network.num_addresses - 2
        for step in range(hosts):
            yield self._network[1 + (self._next - 1 + step) % hosts]
