"""The line between two regions: what it slows down, holds back and resets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from regions.line import Line

PATIENCE_S = 5.0


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def lined_up() -> AsyncIterator[tuple[Line, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A line to an echo, and one connection over it."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    line = Line(lambda: address)
    line.change(delay_s=0.0)
    await line.open()
    reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
    try:
        yield line, reader, writer
    finally:
        writer.close()
        await line.close()
        server.close()


async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bytes:
    writer.write(text)
    return await asyncio.wait_for(reader.readexactly(len(text)), PATIENCE_S)


async def test_bytes_arrive_as_they_were_sent_and_the_end_too() -> None:
    async with lined_up() as (_, reader, writer):
        text = bytes(range(256)) * 1000
        assert await say(reader, writer, text) == text
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""


async def test_delay_counts_once_each_way_and_not_once_a_chunk() -> None:
    async with lined_up() as (line, reader, writer):
        line.change(delay_s=0.1)
        began_s = asyncio.get_running_loop().time()
        await say(reader, writer, bytes(1_000_000))
        took_s = asyncio.get_running_loop().time() - began_s
        assert 0.2 <= took_s < PATIENCE_S  # 60 chunks one after the other would take 12 s


async def test_a_narrow_line_takes_its_time() -> None:
    async with lined_up() as (line, reader, writer):
        line.change(delay_s=0.0, bytes_per_s=100_000.0)
        began_s = asyncio.get_running_loop().time()
        await say(reader, writer, bytes(30_000))
        assert asyncio.get_running_loop().time() - began_s >= 0.3


async def test_a_lost_packet_is_late_and_never_missing() -> None:
    async with lined_up() as (line, reader, writer):
        line.change(delay_s=0.0, loss=1.0)
        began_s = asyncio.get_running_loop().time()
        assert await say(reader, writer, b"late") == b"late"
        assert asyncio.get_running_loop().time() - began_s >= 0.4  # once each way


@pytest.mark.parametrize("way", ["there", "back"])
async def test_a_direction_that_is_cut_holds_its_bytes_until_it_is_whole(way: str) -> None:
    async with lined_up() as (line, reader, writer):
        await say(reader, writer, b"before")
        line.change(delay_s=0.0, **{way: False})
        writer.write(b"after")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(5), 0.2)
        line.change(delay_s=0.0)
        assert await asyncio.wait_for(reader.readexactly(5), PATIENCE_S) == b"after"


async def test_a_line_to_nobody_resets_who_dials() -> None:
    line = Line(lambda: None)
    await line.open()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(reader.readexactly(1), PATIENCE_S)
        writer.close()
    finally:
        await line.close()
