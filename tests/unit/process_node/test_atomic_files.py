"""Volumes of files change all at once."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cluster.process_node.atomic_files import FileContent, write_payload

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def payload(**files: str) -> dict[str, FileContent]:
    return {name.replace("__", "/"): FileContent(text.encode(), 0o640) for name, text in files.items()}


def test_files_are_read_through_the_data_link_with_their_mode(tmp_path: Path) -> None:
    assert write_payload(tmp_path, payload(a="1", sub__b="2"), NOW)
    assert (tmp_path / "a").read_text() == "1"
    assert (tmp_path / "sub/b").read_text() == "2"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert os.readlink(tmp_path / "a") == "..data/a"


def test_an_equal_payload_touches_nothing(tmp_path: Path) -> None:
    write_payload(tmp_path, payload(a="1"), NOW)
    before = os.readlink(tmp_path / "..data")
    assert not write_payload(tmp_path, payload(a="1"), NOW + timedelta(seconds=1))
    assert os.readlink(tmp_path / "..data") == before


def test_a_new_payload_replaces_adds_and_removes_and_leaves_no_old_folder(tmp_path: Path) -> None:
    write_payload(tmp_path, payload(a="1", old="x"), NOW)
    assert write_payload(tmp_path, payload(a="2", new="y"), NOW + timedelta(seconds=1))
    assert {p.name for p in tmp_path.iterdir()} == {"a", "new", "..data", "..2026_01_01_00_00_01.000000"}
    assert (tmp_path / "a").read_text() == "2"


def test_an_empty_payload_makes_an_empty_volume(tmp_path: Path) -> None:
    write_payload(tmp_path / "v", {}, NOW)
    assert [p for p in (tmp_path / "v").iterdir() if not p.name.startswith("..")] == []
