"""Tells peers' routers ten times a second what there is in this region: one text for all that listen."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem_router import jsontext
from tandem_router.errors import UnavailableError
from tandem_router.http1.writer import ResponseWriter
from tandem_router.regions.messages import VERSION

INTERVAL_S = 0.1
FULL_EVERY = 100  # lines; in between only what has changed is told
MAX_LISTENERS = 1000
LINES_TYPE = (b"Content-Type", b"application/x-ndjson")

Fleets = Mapping[str, dict[str, Any]]  # fields of FleetDigest by `namespace/name`


@dataclass(eq=False, slots=True)
class _Listener:
    writer: ResponseWriter
    left: asyncio.Future[None]
    is_slow: bool = False  # it has not read what it was told; what it misses is made up for by a full line
    needs_full: bool = False

    def set_flow(self, is_open: bool) -> None:
        self.is_slow = not is_open
        self.needs_full = self.needs_full or self.is_slow


@dataclass
class Broadcaster:
    """The streams that this router answers.

    Attributes:
        build: every fleet as it is now, and whether this region is drained.
    """

    region: str
    replica: str
    build: Callable[[], tuple[Fleets, bool]]
    _listeners: set[_Listener] = field(default_factory=set)
    _told: dict[str, dict[str, Any]] = field(default_factory=dict)
    _seq: int = 0

    @property
    def listeners(self) -> int:
        """Streams that are open."""
        return len(self._listeners)

    async def serve(self, writer: ResponseWriter) -> None:
        """Answer one stream until its reader leaves, or we do.

        Raises:
            UnavailableError: too many listen already.
        """
        if len(self._listeners) >= MAX_LISTENERS:
            raise UnavailableError(f"{MAX_LISTENERS} streams are open already.", code="too_many_streams")
        listener = _Listener(writer, asyncio.get_running_loop().create_future())
        fleets, is_drained = self.build()
        writer.begin(200, [LINES_TYPE], None, self._line({"full": True, "fleets": dict(fleets)}, is_drained))
        listener.needs_full = True  # the common account of what was told is another one
        writer.on_flow(listener.set_flow)
        self._listeners.add(listener)
        try:
            await listener.left
            writer.end()
        finally:
            self._listeners.discard(listener)
            writer.on_flow(None)

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(INTERVAL_S)

    def tick(self) -> None:
        """One line to everybody who reads."""
        if not self._listeners:
            self._told = {}
            return
        self._seq += 1
        fleets, is_drained = self.build()
        changed = {key: fields for key, fields in fleets.items() if self._told.get(key) != fields}
        gone = [key for key in self._told if key not in fleets]
        self._told = dict(fleets)
        news = self._line({"fleets": changed, "gone": gone}, is_drained)
        readers = [listener for listener in self._listeners if not listener.is_slow]
        is_full = self._seq % FULL_EVERY == 0
        whole = b""
        if is_full or any(listener.needs_full for listener in readers):
            whole = self._line({"full": True, "fleets": self._told}, is_drained)
        for listener in readers:
            listener.writer.write(whole if is_full or listener.needs_full else news)
            listener.needs_full = False

    def say_goaway(self) -> None:
        """This router is about to stop: whoever listens is to go on with another one."""
        line = self._line({"goaway": True}, is_drained=False)
        for listener in list(self._listeners):
            listener.writer.write(line)
            if not listener.left.done():
                listener.left.set_result(None)

    def _line(self, fields: dict[str, Any], is_drained: bool) -> bytes:
        head = {"v": VERSION, "region": self.region, "replica": self.replica, "seq": self._seq, "drain": is_drained}
        return jsontext.dumps({**head, **fields}) + b"\n"
