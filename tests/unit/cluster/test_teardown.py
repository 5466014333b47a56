"""Removing folders succeeds whatever pods did to them."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.places import SHARED_MEMORY, RunFolder
from cluster.teardown import remove, remove_tree


def test_folders_without_write_permission_are_removed(tmp_path: Path) -> None:
    """A pod may have taken permissions away, as an ordinary user, from folders of its own."""
    locked = tmp_path / "tree" / "outer" / "inner"
    locked.mkdir(parents=True)
    (locked / "file").touch()
    for folder in (locked, locked.parent):
        folder.chmod(0o500)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    """What a pod linked to stays."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "tree")
    assert (tmp_path / "kept" / "file").exists()


def test_removing_nothing_is_fine(tmp_path: Path) -> None:
    """Teardown is safe to repeat."""
    remove_tree(tmp_path / "nothing")


def test_a_run_in_shared_memory_is_removed_with_its_folder(tmp_path: Path) -> None:
    """The memory folder is found from the path alone."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.memory.mkdir()
    assert run.memory.parent == SHARED_MEMORY
    remove(run)
    assert not os.path.lexists(run.memory)
    assert not run.path.exists()
