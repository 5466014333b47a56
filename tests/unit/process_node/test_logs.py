"""Logs: lines in, the lines that were asked for out."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.process_node.logs import (
    LONGEST_LINE_BYTES,
    LogFile,
    LogOptions,
    LogPipe,
    LogQueryError,
    format_line,
    parse_options,
    read_log,
    stored_lines,
    tail_text,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = LogFile(tmp_path / "c" / "0.log")
    for second, text in enumerate(["one", "two", "three"]):
        file.write(format_line(T0 + timedelta(seconds=second), "stdout", text.encode()))
    file.close()
    return tmp_path / "c" / "0.log"


async def read(path: Path, options: LogOptions) -> bytes:
    return b"".join([text async for text in read_log(path, options, lambda: False)])


@pytest.mark.parametrize(
    ("options", "want"),
    [
        (LogOptions(), b"one\ntwo\nthree\n"),
        (LogOptions(tail_lines=2), b"two\nthree\n"),
        (LogOptions(tail_lines=0), b""),
        (LogOptions(limit_bytes=5), b"one\nt"),
        (LogOptions(since=T0 + timedelta(seconds=1)), b"two\nthree\n"),
        (LogOptions(timestamps=True, tail_lines=1), b"2026-01-01T00:00:02.000000000Z three\n"),
    ],
)
async def test_a_reader_gets_what_it_asked_for(path: Path, options: LogOptions, want: bytes) -> None:
    assert await read(path, options) == want


async def test_a_follower_gets_later_lines_over_a_rotation_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    file = LogFile(path, limit_bytes=120)
    growing = True
    got: list[bytes] = []

    async def follow() -> None:
        options = LogOptions(follow=True, tail_lines=0)
        got.extend([text async for text in read_log(path, options, lambda: growing, poll_s=0.005)])

    reader = asyncio.create_task(follow())
    for number in range(8):
        await asyncio.sleep(0.02)
        file.write(format_line(T0, "stdout", f"line {number}".encode()))
    growing = False
    await reader
    assert got == [f"line {number}\n".encode() for number in range(8)]


def test_a_full_file_is_rotated_once_and_bounded(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "0.log", limit_bytes=1000)
    for number in range(100):
        file.write(format_line(T0, "stdout", f"{number:03}".encode()))
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= 2000
    assert stored_lines(tmp_path / "0.log")[-1].endswith(b" F 099")


async def test_pipes_make_lines_of_any_chunks_and_keep_an_unfinished_last_one(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "0.log")
    pipe = LogPipe(file, "stderr", lambda: T0)
    for chunk in (b"he", b"llo\nwor", b"ld\n\nend"):
        pipe.data_received(chunk)
    pipe.connection_lost(None)
    assert [line.split(b" ", 2)[2] for line in stored_lines(tmp_path / "0.log")] == [
        b"F hello",
        b"F world",
        b"F ",
        b"P end",
    ]
    assert await read(tmp_path / "0.log", LogOptions()) == b"hello\nworld\n\nend"


async def test_an_endless_line_is_cut_into_parts_that_read_as_one(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "0.log")
    pipe = LogPipe(file, "stdout", lambda: T0)
    text = b"x" * (2 * LONGEST_LINE_BYTES + 5)
    pipe.data_received(text + b"\n")
    assert await read(tmp_path / "0.log", LogOptions()) == text + b"\n"


def test_a_termination_message_is_the_end_of_the_log(path: Path) -> None:
    assert tail_text(path, lines=2, limit_bytes=100) == "two\nthree\n"
    assert tail_text(path, lines=2, limit_bytes=4) == "ree\n"
    assert tail_text(path.with_name("none.log"), lines=2, limit_bytes=4) == ""


def test_options_are_read_from_the_kubelet_url() -> None:
    query = {"follow": "true", "timestamps": "true", "tailLines": "5", "limitBytes": "9", "sinceSeconds": "60"}
    assert parse_options(query, T0) == LogOptions(True, True, 5, 9, T0 - timedelta(seconds=60))
    assert parse_options({"sinceTime": "2026-01-01T00:00:00Z"}, T0).since == T0


@pytest.mark.parametrize(
    "query",
    [
        {"follow": "yes"},
        {"tailLines": "-1"},
        {"limitBytes": "0"},
        {"sinceSeconds": "x"},
        {"sinceTime": "yesterday"},
        {"sinceTime": "2026-01-01T00:00:00"},
        {"sinceSeconds": "1", "sinceTime": "2026-01-01T00:00:00Z"},
    ],
)
def test_an_option_that_makes_no_sense_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(LogQueryError):
        parse_options(query, T0)
