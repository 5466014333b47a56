"""KV over mutual TLS, with real certificates: who is let in, and what everybody else is told."""

import socket
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from integration.kv.relay import Relay
from unit.kv.certificates import Authority, build_authority, write_worker_certificate
from unit.kv.rank import ADDRESS, BLOCK_BYTES, Rank
from unit.kv.rank import running_rank as hasty_rank

from tandem_worker.kv.decode_side import Peer
from tandem_worker.kv.local import fetch_stats
from tandem_worker.kv.service import KvServiceError
from tandem_worker.kv.tls import TlsFilesError, TlsGuard

REMOTE, LOCAL = [7, 3, 4, 60], [1, 2, 50, 9]


def running_rank(directory: Path, name: str, **settings: Any) -> AbstractContextManager[Rank]:
    """With deadlines that leave room for handshakes on a busy machine."""
    return hasty_rank(
        directory, name, **{"heartbeat_s": 1.0, "handshake_timeout_s": 5.0, "chunk_timeout_s": 5.0} | settings
    )


@pytest.fixture(scope="module")
def authority() -> Authority:
    return build_authority("fleet")


@pytest.fixture
def certificate(tmp_path: Path, authority: Authority) -> Path:
    return write_worker_certificate(tmp_path / "certificate", authority)


async def load(prefill: Rank, decode: Rank) -> tuple[bool, set[str], set[str]]:
    """(whether all came, what decode counted, what prefill counted)."""
    prefill.service.register_lease("r1", [REMOTE])
    decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)
    result = decode.await_load(timeout_s=10)
    counted = [set((await fetch_stats(rank.socket))["failures"]) for rank in (decode, prefill)]
    return not result.missing_blocks, counted[0], counted[1]


async def test_blocks_arrive_and_neither_they_nor_the_tickets_are_seen_on_the_wire(
    tmp_path: Path, certificate: Path
) -> None:
    with (
        running_rank(tmp_path, "prefill", tls_dir=certificate) as prefill,
        running_rank(tmp_path, "decode", tls_dir=certificate) as decode,
    ):
        wire = Relay((ADDRESS, prefill.settings.port), 1 << 40, is_black_hole=False)
        prefill.service.register_lease("r1", [REMOTE])

        decode.pull(Peer(ADDRESS, wire.port, prefill.engine.engine_id), prefill.ticket("r1", REMOTE), LOCAL)

        assert decode.await_load(timeout_s=10).missing_blocks == frozenset()
        assert all(prefill.block(there) == decode.block(here) for there, here in zip(REMOTE, LOCAL, strict=True))
        assert prefill.await_freed() == {"r1"}
        wire.close()
    heard = bytes(wire.heard)
    assert len(heard) > BLOCK_BYTES * len(REMOTE)
    assert prefill.block(REMOTE[0])[:64] not in heard
    assert b"remote_request_id" not in heard
    assert b"greeting" not in heard


async def test_a_control_message_larger_than_any_buffer_passes(tmp_path: Path, certificate: Path) -> None:
    with (
        running_rank(tmp_path, "prefill", tls_dir=certificate) as prefill,
        running_rank(tmp_path, "decode", tls_dir=certificate) as decode,
    ):
        prefill.service.register_lease("r1", [REMOTE])

        decode.pull(prefill.peer, prefill.ticket("r1", REMOTE) | {"padding": "x" * (5 << 20)}, LOCAL)

        assert decode.await_load(timeout_s=20).missing_blocks == frozenset()


async def test_a_peer_with_a_certificate_of_another_authority_is_not_let_in(tmp_path: Path, certificate: Path) -> None:
    stranger = write_worker_certificate(tmp_path / "stranger", build_authority("other"))
    with (
        running_rank(tmp_path, "prefill", tls_dir=certificate) as prefill,
        running_rank(tmp_path, "decode", tls_dir=stranger) as decode,
    ):
        has_all, decode_counted, prefill_counted = await load(prefill, decode)

    assert not has_all
    assert decode_counted == {"tls_untrusted"}
    assert prefill_counted == {"tls_failed"}


async def test_an_expired_certificate_of_prefill_is_refused_by_decode(
    tmp_path: Path, certificate: Path, authority: Authority
) -> None:
    expired = write_worker_certificate(tmp_path / "expired", authority, is_expired=True)
    with (
        running_rank(tmp_path, "prefill", tls_dir=expired) as prefill,
        running_rank(tmp_path, "decode", tls_dir=certificate) as decode,
    ):
        has_all, decode_counted, prefill_counted = await load(prefill, decode)

    assert not has_all
    assert decode_counted == {"tls_expired"}
    assert prefill_counted == {"tls_failed"}


async def test_an_expired_certificate_of_decode_is_refused_by_prefill(
    tmp_path: Path, certificate: Path, authority: Authority
) -> None:
    expired = write_worker_certificate(tmp_path / "expired", authority, is_expired=True)
    with (
        running_rank(tmp_path, "prefill", tls_dir=certificate) as prefill,
        running_rank(tmp_path, "decode", tls_dir=expired) as decode,
    ):
        has_all, decode_counted, prefill_counted = await load(prefill, decode)

    assert not has_all
    assert decode_counted == {"tls_refused"}
    assert prefill_counted == {"tls_expired"}


async def test_a_plain_peer_of_a_tls_worker_is_told_that_tls_is_required(tmp_path: Path, certificate: Path) -> None:
    with (
        running_rank(tmp_path, "prefill", tls_dir=certificate) as prefill,
        running_rank(tmp_path, "decode") as decode,
    ):
        has_all, decode_counted, prefill_counted = await load(prefill, decode)

    assert not has_all
    assert decode_counted == {"refused_tls_required"}
    assert prefill_counted == {"tls_required"}


async def test_a_tls_peer_of_a_plain_worker_finds_no_tls_there(tmp_path: Path, certificate: Path) -> None:
    with (
        running_rank(tmp_path, "prefill") as prefill,
        running_rank(tmp_path, "decode", tls_dir=certificate) as decode,
    ):
        has_all, decode_counted, prefill_counted = await load(prefill, decode)

    assert not has_all
    assert decode_counted == {"tls_not_offered"}
    assert prefill_counted == {"tls_not_configured"}


async def test_a_stolen_token_without_a_certificate_opens_no_data_connection(tmp_path: Path, certificate: Path) -> None:
    with (
        running_rank(tmp_path, "prefill", tls_dir=certificate) as prefill,
        socket.create_connection((ADDRESS, prefill.settings.port), 2) as thief,
    ):
        thief.sendall(b"TKSD" + b"0" * 32)
        thief.settimeout(5)
        assert thief.recv(1) == b""


def test_certificates_are_replaced_without_a_restart_and_bad_ones_are_not_taken(
    tmp_path: Path, authority: Authority
) -> None:
    directory = write_worker_certificate(tmp_path / "certificate", authority)
    guard = TlsGuard(directory)
    first = guard.server_context()

    (directory / "tls.crt").write_text("no certificate")
    assert guard.server_context() is first
    time.sleep(0.01)
    write_worker_certificate(directory, authority)

    assert guard.server_context() is not first


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt"])
def test_a_missing_file_is_named(tmp_path: Path, certificate: Path, name: str) -> None:
    (certificate / name).unlink()

    with pytest.raises(TlsFilesError, match=r"must hold tls.crt, tls.key and ca.crt"):
        TlsGuard(certificate)


def test_a_rank_without_its_certificate_does_not_start(tmp_path: Path) -> None:
    with (
        pytest.raises(KvServiceError, match=r"nowhere must hold tls.crt"),
        running_rank(tmp_path, "prefill", tls_dir=tmp_path / "nowhere"),
    ):
        pass
