"""Go compiles in memory where there is plenty, and nothing stays there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import scratch
from cluster.scratch import go_scratch, has_room, remove_abandoned


def write_meminfo(folder: Path, available_kb: int) -> Path:
    file = folder / "meminfo"
    file.write_text(f"MemTotal:       99999999 kB\nMemAvailable:   {available_kb} kB\n")
    return file


def test_there_is_room_only_where_memory_is_to_spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "NEEDED_BYTES", 1)
    assert has_room(tmp_path, write_meminfo(tmp_path, 20 << 20))
    assert not has_room(tmp_path, write_meminfo(tmp_path, 8 << 20))
    assert not has_room(tmp_path / "none", write_meminfo(tmp_path, 20 << 20))
    assert not has_room(tmp_path, tmp_path / "none")
    monkeypatch.setattr(scratch, "NEEDED_BYTES", 1 << 60)
    assert not has_room(tmp_path, write_meminfo(tmp_path, 20 << 20))


def test_folders_last_as_long_as_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "has_room", lambda memory: True)
    with go_scratch(tmp_path) as places:
        assert all(Path(place).is_dir() for place in (places["GOCACHE"], places["GOTMPDIR"]))
    assert list(tmp_path.iterdir()) == []


def test_without_room_go_uses_its_own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "has_room", lambda memory: False)
    with go_scratch(tmp_path) as places:
        assert places == {}


def test_what_a_killed_build_left_is_removed_and_what_a_live_one_uses_is_not(tmp_path: Path) -> None:
    for name in ("tandem-go-1-live", "tandem-go-4999999-dead", "others"):
        (tmp_path / name).mkdir()
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["others", "tandem-go-1-live"]
