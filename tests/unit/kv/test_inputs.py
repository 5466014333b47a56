"""Settings, keys, tickets and frames: what is wrong is named; what is tampered with is noticed."""

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from property.kv.world import KEYS, build_engine, build_ticket

from tandem_worker.kv.compatibility import find_mismatch
from tandem_worker.kv.keys import KeyFileError, KeyFiles, KeyRing, fetch_keys
from tandem_worker.kv.messages import (
    MAX_FRAME_BYTES,
    FrameReader,
    GroupShape,
    Ping,
    Pong,
    WireError,
    decode_message,
    encode_frame,
)
from tandem_worker.kv.params import TicketError, read_ticket
from tandem_worker.kv.settings import SettingsError, read_settings

GOOD = {
    "bind_host": "10.0.0.1", "port": 5600, "keys_dir": "/k", "kv_revision": "r", "fleet": "ns/f",
    "engine_id": "e", "run_dir": "/r",
}  # fmt: skip


def test_good_settings_have_the_documented_defaults() -> None:
    settings = read_settings(GOOD)
    assert (settings.chunk_bytes, settings.lease_s, settings.silence_s) == (8 << 20, 30, 3)
    assert settings.local_socket(2) == Path("/r/kv-2.sock")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"port": 0}, "port"),
        ({"fleet": "no-namespace"}, "fleet"),
        ({"transport": "carrier-pigeon"}, "transport"),
        ({"lease_s": -1}, "lease_s"),
        ({"leese_s": 3}, "leese_s"),
        ({"bind_host": ""}, "bind_host"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=rf"kv_connector_extra_config: {named}: "):
        read_settings(GOOD | change)


def write_key(directory: Path, name: str, key: bytes) -> None:
    draft = directory / f".{name}"
    draft.write_text(base64.urlsafe_b64encode(key).decode().rstrip("=") + "\n")
    os.replace(draft, directory / name)


def test_a_rotated_key_is_used_at_once_and_the_former_still_verifies(tmp_path: Path) -> None:
    write_key(tmp_path, "kv.key", b"a" * 32)
    files = KeyFiles(tmp_path)
    _, old_mac = files.sign(b"message")

    write_key(tmp_path, "kv.previous", b"a" * 32)
    write_key(tmp_path, "kv.key", b"b" * 32)
    (tmp_path / "kid").write_text("k2\n")

    kid, new_mac = files.sign(b"message")
    assert (kid, new_mac != old_mac) == ("k2", True)
    assert files.is_authentic(b"message", old_mac)
    assert files.is_authentic(b"message", new_mac)
    assert not files.is_authentic(b"other message", new_mac)


@pytest.mark.parametrize(("text", "says"), [("", "holds 0 bytes"), ("c2hvcnQ=", "holds 5 bytes"), ("ü", "base64url")])
def test_a_bad_key_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "kv.key").write_text(text)
    with pytest.raises(KeyFileError, match=rf"kv\.key .*{says}"):
        fetch_keys(tmp_path)


def test_no_previous_key_is_as_good_as_an_empty_one(tmp_path: Path) -> None:
    write_key(tmp_path, "kv.key", b"a" * 32)
    (tmp_path / "kv.previous").write_text("")
    assert fetch_keys(tmp_path).previous is None


def test_a_ticket_survives_the_router_and_what_vllm_adds_to_it() -> None:
    fields = build_ticket("e1", "r1", [1, 2]) | {"do_remote_prefill": True, "remote_prefill_cached_tokens": 7}
    assert read_ticket(fields, "ns/fleet", KEYS).remote_request_id == "r1"


@pytest.mark.parametrize("field", sorted(build_ticket("e1", "r1", [1])))
def test_every_field_of_a_ticket_is_signed_or_checked(field: str) -> None:
    fields = build_ticket("e1", "r1", [1])
    changed = {str: lambda value: value[:-1] + "_", int: lambda value: value + 1, list: lambda value: [[2]]}
    fields[field] = changed[type(fields[field])](fields[field])
    with pytest.raises(TicketError):
        read_ticket(fields, "ns/fleet", KEYS)


def test_a_ticket_of_a_stranger_does_not_verify() -> None:
    with pytest.raises(TicketError, match="mac does not verify"):
        read_ticket(build_ticket("e1", "r1", [1]), "ns/fleet", KeyRing("k1", b"another key here"))


def test_frames_come_out_whole_however_they_were_cut() -> None:
    stream = encode_frame(Ping(renew=["a"])) + encode_frame(Pong())
    reader = FrameReader()
    messages = [message for byte in stream for message in reader.feed(bytes([byte]))]
    assert messages == [Ping(renew=["a"]), Pong()]


def test_an_oversized_frame_is_refused_before_it_is_stored() -> None:
    with pytest.raises(WireError, match="exceeds"):
        FrameReader().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))


@pytest.mark.parametrize("body", [b"", b"[]", b'{"type": "nonsense"}', b'{"type": "ready"}', b"\xff"])
def test_a_malformed_message_is_refused(body: bytes) -> None:
    with pytest.raises(WireError, match="malformed message"):
        decode_message(body)


@pytest.mark.parametrize(
    ("mine", "theirs", "reason"),
    [
        ({}, {"fleet": "other/fleet"}, "mismatch_fleet"),
        ({}, {"cache_dtype": "fp8"}, "mismatch_cache_dtype"),
        ({}, {"layout": "BLHNC"}, "mismatch_layout"),
        ({}, {"transport": "nccl"}, "mismatch_transport"),
        ({"tp_size": 2}, {"tp_size": 3}, "mismatch_tp"),
        (
            {},
            {"groups": [GroupShape(layers=["l0"], page_tokens=16, head_bytes_per_token=8, kv_heads=2)]},
            "mismatch_groups",
        ),
    ],
)
def test_engines_that_must_not_share_kv_are_told_why(mine: dict[str, Any], theirs: dict[str, Any], reason: str) -> None:
    mismatch = find_mismatch(build_engine("a", **mine), build_engine("b", **theirs))
    assert mismatch is not None
    assert mismatch.reason == reason


def test_engines_that_differ_only_in_size_may_share_kv() -> None:
    assert find_mismatch(build_engine("a", tp_size=4), build_engine("b", tp_size=2, chunk_bytes=5)) is None
