"""The image table: names to virtual environments, refusing what is wrong by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.process_node.images import ImageError, ImageTable, parse_image


@pytest.fixture
def venv(tmp_path: Path) -> str:
    (tmp_path / "v" / "bin").mkdir(parents=True)
    return str(tmp_path / "v")


def test_an_image_has_its_environment_first_on_the_path(venv: str) -> None:
    image = parse_image("a", {"venv": venv, "env": {"A": "1"}, "entrypoint": ["run"]})
    assert image.search_path == f"{venv}/bin:/usr/bin:/bin"
    assert (image.env, image.entrypoint) == ({"A": "1"}, ("run",))


def test_a_name_that_is_added_later_is_found(tmp_path: Path, venv: str) -> None:
    table = ImageTable(tmp_path / "t.json")
    table.file.write_text("{}")
    with pytest.raises(ImageError, match=r"image 'a' is not in the image table .* it has: none"):
        table.find("a")
    table.file.write_text(json.dumps({"a": {"venv": venv}}))
    assert table.find("a").name == "a"


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_table_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ImageError, match="image table"):
        ImageTable(tmp_path / "t.json").check()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "needs a field venv"),
        ("x", "needs a field venv"),
        ({"venv": "/nonexistent"}, "no virtual environment"),
        ({"venv": "VENV", "extra": 1}, "unknown field 'extra'"),
        ({"venv": "VENV", "env": {"A": 1}}, "env must map names to strings"),
        ({"venv": "VENV", "entrypoint": "python"}, "entrypoint must be a list"),
    ],
)
def test_a_wrong_entry_is_refused(venv: str, entry: Any, message: str) -> None:
    if isinstance(entry, dict) and entry.get("venv") == "VENV":
        entry = {**entry, "venv": venv}
    with pytest.raises(ImageError, match=f"image 'a': .*{message}"):
        parse_image("a", entry)
