"""The root keys: made once, followed by all that is derived, replaced without a moment in which nobody is let in."""

from __future__ import annotations

import base64
import itertools
from typing import Any, cast

import pytest

from tandem_core import keys
from tandem_core.keys import RootKeys
from tandem_operator.cluster import Cluster
from tandem_operator.errors import ConfigurationError, NotFound
from tandem_operator.kinds import Kind, Manifest
from tandem_operator.resources.keys_secret import derive_fleet_keys
from tandem_operator.root_keys import build_router_files, ensure_root_keys

OLD, NEW = b"o" * keys.KEY_BYTES, b"n" * keys.KEY_BYTES


class Secrets:
    """Secrets of one namespace, as `Cluster` shows them."""

    def __init__(self) -> None:
        self.held: dict[str, Manifest] = {}
        self.writes = 0

    async def fetch(self, kind: Kind, namespace: str, name: str) -> Manifest:
        if name not in self.held:
            raise NotFound(404, "NotFound", name)
        return self.held[name]

    async def create(self, manifest: Manifest, manager: str) -> Manifest:
        assert manifest["metadata"]["name"] not in self.held
        return await self.apply(manifest, manager, uid=None)

    async def apply(self, manifest: Manifest, manager: str, *, uid: str | None) -> Manifest:
        self.writes += 1
        name = manifest["metadata"]["name"]
        self.held[name] = {**manifest, "metadata": {**manifest["metadata"], "uid": name}}
        return self.held[name]

    def write(self, **files: str) -> None:
        """An administrator sets entries of `tandem-root` (`root_key` means `root.key`)."""
        data = {name.replace("_", "."): base64.b64encode(text.encode()).decode() for name, text in files.items()}
        self.held[keys.ROOT_SECRET] = {"metadata": {"uid": "root"}, "data": data}

    def files(self, name: str) -> dict[str, str]:
        return {file: base64.b64decode(text).decode() for file, text in self.held[name]["data"].items()}


async def ensure(secrets: Secrets, known: RootKeys | None = None) -> RootKeys:
    return await ensure_root_keys(cast(Cluster, secrets), "home", known, lambda _: NEW)


async def test_keys_are_made_once_and_nothing_is_written_afterwards() -> None:
    secrets = Secrets()
    assert await ensure(secrets) == RootKeys(NEW)
    assert secrets.files(keys.ROUTER_SECRET) == build_router_files(RootKeys(NEW))
    written = secrets.writes
    assert await ensure(secrets, RootKeys(NEW)) == RootKeys(NEW)
    assert secrets.writes == written


async def test_at_each_step_of_a_rotation_old_and_new_holders_accept_one_another() -> None:
    """Whoever has the files of one step and whoever has those of the next always share the key that is used."""
    secrets = Secrets()
    steps = [
        {"root_key": keys.encode_key(OLD)},
        {"root_key": keys.encode_key(OLD), "root_previous": keys.encode_key(NEW)},
        {"root_key": keys.encode_key(NEW), "root_previous": keys.encode_key(OLD)},
        {"root_key": keys.encode_key(NEW)},
    ]
    fleets, routers = [], []
    for step in steps:
        secrets.write(**step)
        fleets.append(derive_fleet_keys(await ensure(secrets), "uid").files)
        routers.append(secrets.files(keys.ROUTER_SECRET))
    for before, after in itertools.pairwise(fleets):
        for user, verifier in ((before, after), (after, before)):
            assert user["engine.key"] in (verifier["engine.key"], verifier["engine.previous"])
            assert user["kv.key"] in (verifier["kv.key"], verifier["kv.previous"])
    assert [files["router.previous"] != "" for files in routers] == [False, True, True, False]
    assert fleets[3]["engine.key"] != fleets[0]["engine.key"]
    assert (fleets[3]["engine.previous"], fleets[3]["kv.previous"]) == ("", "")
    assert fleets[3]["kid"] != fleets[0]["kid"]


async def test_a_root_that_is_deleted_while_the_operator_runs_is_replaced_and_stays_accepted() -> None:
    assert await ensure(Secrets(), RootKeys(OLD)) == RootKeys(NEW, OLD)


async def test_a_routers_key_of_somebody_else_is_put_right() -> None:
    secrets = Secrets()
    await ensure(secrets)
    secrets.held[keys.ROUTER_SECRET]["data"] = {"router.key": "Zm9yZWlnbg=="}
    await ensure(secrets)
    assert secrets.files(keys.ROUTER_SECRET) == build_router_files(RootKeys(NEW))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has no root\.key: delete it, and it is remade"),
        ({"root_key": "short"}, r"root\.key: .* delete the Secret, and it is remade"),
        ({"root_key": keys.encode_key(NEW), "root_previous": "x"}, r"root\.previous: .* remove this entry"),
    ],
)
async def test_what_is_no_key_is_named_with_the_fix(files: dict[str, Any], message: str) -> None:
    secrets = Secrets()
    secrets.write(**files)
    with pytest.raises(ConfigurationError, match=message):
        await ensure(secrets)


def test_no_key_shows_in_a_repr() -> None:
    assert "nnn" not in repr(RootKeys(NEW, NEW))
