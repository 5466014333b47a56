"""The way from one region to another: a TCP proxy that is slow, narrow, lossy, cut in one direction or in both."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace

CHUNK_BYTES = 16_384
HOLE_S = 0.02  # how often a direction that is cut is looked at
RETRANSMISSION_S = 0.2  # what a lost packet costs its stream: Linux' shortest retransmission timeout
AHEAD = 64  # chunks on their way at once, per direction of a connection

Address = tuple[str, int]


@dataclass(frozen=True)
class Weather:
    """What a line does to what it carries.

    Attributes:
        delay_s: one way.
        loss: share of chunks that come late by a retransmission; TCP shows no other trace of a lost packet.
        bytes_per_s: of each direction of each connection.
        there, back: whether bytes of the region that dialled, and of the one that was dialled, arrive.
        is_refusing: new connections are reset, as by a machine without a listener.
    """

    delay_s: float = 0.0
    loss: float = 0.0
    bytes_per_s: float = float("inf")
    there: bool = True
    back: bool = True
    is_refusing: bool = False


CLEAR = Weather(delay_s=0.015)


@dataclass
class Line:
    """One line. `target` tells where it leads now; None: nobody is there, and who dials is reset."""

    target: Callable[[], Address | None]
    weather: Weather = CLEAR
    port: int = 0
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> None:
        """Listen on a port of its own, the same one when it is opened again."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening, and reset what is carried."""
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            _reset(writer)

    def change(self, **weather: object) -> None:
        """Other weather, from a clear sky."""
        self.weather = replace(CLEAR, **weather)  # type: ignore[arg-type]  # fields of Weather, checked by it

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._accept(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        finally:
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self.target()
        if self.weather.is_refusing or target is None:
            return
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(*target)
            ends = {writer, far_writer}
            self._writers |= ends
            try:
                async with asyncio.TaskGroup() as ways:
                    ways.create_task(self._carry(reader, far_writer, lambda: self.weather.there))
                    ways.create_task(self._carry(far_reader, writer, lambda: self.weather.back))
                for end in ends:  # both sides have said all that they had to say
                    end.close()
                    await end.wait_closed()
            except* OSError:
                pass  # one end reset it: so does the other, below
            finally:
                self._writers -= ends
                _reset(far_writer)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_whole: Callable[[], bool]
    ) -> None:
        """One direction. Chunks are on their way together, so that delay costs no throughput."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(AHEAD)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._deliver(on_the_way, writer, is_whole))
            both.create_task(self._send(reader, on_the_way))

    async def _send(self, reader: asyncio.StreamReader, on_the_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        now_s, free_s, last_s = asyncio.get_running_loop().time, 0.0, 0.0
        while True:
            data = await reader.read(CHUNK_BYTES)
            weather = self.weather
            free_s = max(free_s, now_s()) + len(data) / weather.bytes_per_s
            lost_s = RETRANSMISSION_S if random.random() < weather.loss else 0.0  # noqa: S311 - weather
            last_s = max(last_s, free_s + weather.delay_s + lost_s)  # in order, as TCP delivers
            await on_the_way.put((last_s, data))
            if not data:
                return

    async def _deliver(
        self,
        on_the_way: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        is_whole: Callable[[], bool],
    ) -> None:
        now_s = asyncio.get_running_loop().time
        while True:
            due_s, data = await on_the_way.get()
            await asyncio.sleep(max(0.0, due_s - now_s()))
            while not is_whole():  # noqa: ASYNC110 - a hole in the net makes no sound
                await asyncio.sleep(HOLE_S)
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection without a farewell (RST), as what has died does."""
    link = writer.get_extra_info("socket")
    if writer.transport.is_closing():
        return
    if link is not None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
