"""One listening socket: its handler, its limits, and the connections that it has open."""

import asyncio
from dataclasses import dataclass, field

from tandem_router.http1.inbound import ClientConnection, Handler
from tandem_router.http1.reading import new_read_buffer
from tandem_router.http1.strict import Limits


@dataclass
class Listener:
    """What all connections of one listening socket share."""

    handler: Handler
    limits: Limits
    connections: "set[ClientConnection]" = field(default_factory=set)
    draining: bool = False
    read_buffer: memoryview = field(default_factory=new_read_buffer)
    _emptied: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, connection: "ClientConnection") -> None:
        """A client has connected."""
        self.connections.add(connection)
        self._emptied.clear()

    def discard(self, connection: "ClientConnection") -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self._emptied.set()

    @property
    def is_full(self) -> bool:
        """More clients are connected than may be."""
        return len(self.connections) > self.limits.connections

    async def wait_empty(self) -> None:
        """Wait until there is no connection."""
        if self.connections:
            await self._emptied.wait()

    def connect(self) -> "ClientConnection":
        """Protocol factory."""
        return ClientConnection(self)

    def drain(self) -> None:
        """Close idle connections now, and the others after the response in flight."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_if_idle()

    def abort(self) -> None:
        """Close every connection now."""
        for connection in list(self.connections):
            connection.abort()

    def sweep(self, now_s: float) -> None:
        """Enforce the time limits; call every second."""
        for connection in list(self.connections):
            connection.check_time(now_s)
