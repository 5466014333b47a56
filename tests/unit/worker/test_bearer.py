"""Who may call an engine."""

import os
from pathlib import Path

import pytest
from unit.worker.parts import TOKEN

from tandem_api.conditions import Reason
from tandem_worker.bearer import BearerKeys
from tandem_worker.errors import WorkerError


@pytest.mark.parametrize("header", [None, "", TOKEN, f"Basic {TOKEN}", "Bearer ", "Bearer wrong", f"Bearer {TOKEN}x"])
def test_anything_but_the_fleets_token_is_refused(keys_dir: Path, header: str | None) -> None:
    assert not BearerKeys(keys_dir).is_authorized(header)


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer  {TOKEN} "])
def test_the_fleets_token_is_accepted(keys_dir: Path, header: str) -> None:
    assert BearerKeys(keys_dir).is_authorized(header)


def test_a_rotated_key_and_its_predecessor_are_both_accepted_without_a_restart(keys_dir: Path) -> None:
    keys = BearerKeys(keys_dir)
    assert keys.is_authorized(f"Bearer {TOKEN}")
    (keys_dir / "engine.key").write_text("new-token")
    (keys_dir / "engine.previous").write_text(TOKEN)
    assert keys.is_authorized("Bearer new-token")
    assert keys.is_authorized(f"Bearer {TOKEN}")


def test_a_key_that_is_gone_lets_nobody_in(keys_dir: Path) -> None:
    keys = BearerKeys(keys_dir)
    os.unlink(keys_dir / "engine.key")
    assert not keys.is_authorized(f"Bearer {TOKEN}")
    (keys_dir / "engine.key").write_text("")
    assert not keys.is_authorized("Bearer ")
    with pytest.raises(WorkerError, match=r"engine\.key") as caught:
        keys.fetch_current()
    assert caught.value.reason is Reason.SECRET_MISSING
