"""Two ranks over real sockets: what is moved, what is refused, and what every fault costs."""

import base64
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from integration.kv.relay import Relay
from unit.kv.rank import ADDRESS, BLOCK_BYTES, TOKENS, Rank, running_rank

from tandem_worker.kv.decode_side import Peer
from tandem_worker.kv.local import LocalError, apply_release, apply_release_params, fetch_load, fetch_stats
from tandem_worker.kv.service import KvServiceError

REMOTE, LOCAL = [7, 3, 4, 60], [1, 2, 50, 9]


@pytest.fixture
def prefill(tmp_path: Path) -> Iterator[Rank]:
    with running_rank(tmp_path, "prefill") as rank:
        yield rank


@pytest.fixture
def decode(tmp_path: Path) -> Iterator[Rank]:
    with running_rank(tmp_path, "decode") as rank:
        yield rank


def assert_copied(prefill: Rank, decode: Rank, count: int = len(REMOTE)) -> None:
    pairs = zip(REMOTE[:count], LOCAL[:count], strict=True)
    assert all(prefill.block(there) == decode.block(here) for there, here in pairs)


async def test_blocks_arrive_where_they_belong_and_the_lease_comes_back(prefill: Rank, decode: Rank) -> None:
    untouched = decode.block(5)
    prefill.service.register_lease("r1", [REMOTE])
    assert (await fetch_stats(prefill.socket))["lease_blocks"] == len(REMOTE)

    decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)

    result = decode.await_load()
    assert (result.missing_blocks, result.remote_tokens) == (frozenset(), TOKENS * len(REMOTE))
    assert_copied(prefill, decode)
    assert decode.block(5) == untouched
    assert prefill.await_freed() == {"r1"}
    sent, received = await fetch_stats(prefill.socket), await fetch_stats(decode.socket)
    assert sent["bytes_sent"] == received["bytes_received"] == BLOCK_BYTES * len(REMOTE)
    assert (sent["leases"], sent["sessions"], received["sessions"]) == (0, 1, 1)
    assert (sent["failures"], received["failures"]) == ({}, {})
    whole = {"prefill": ADDRESS, "bytes_received": BLOCK_BYTES * 4, "remote_tokens": TOKENS * 4, "recomputed_tokens": 0}
    assert await fetch_load(decode.socket, "r1") == whole
    assert await fetch_load(decode.socket, "r2") is None


def test_a_pull_that_is_faster_than_the_lease_waits_for_it(prefill: Rank, decode: Rank) -> None:
    decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)
    time.sleep(0.1)

    prefill.service.register_lease("r1", [REMOTE])

    assert decode.await_load().missing_blocks == frozenset()
    assert_copied(prefill, decode)


async def test_a_pull_without_a_lease_is_refused_in_bounded_time(prefill: Rank, decode: Rank) -> None:
    decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)

    result = decode.await_load(timeout_s=1)

    assert result.missing_blocks == set(LOCAL)
    assert result.recomputed_tokens == TOKENS * len(LOCAL)
    assert (await fetch_stats(decode.socket))["failures"] == {"rejected_unknown_lease": 1}
    load = await fetch_load(decode.socket, "r1")
    assert load is not None
    assert (load["bytes_received"], load["remote_tokens"], load["recomputed_tokens"]) == (0, 0, TOKENS * len(LOCAL))


async def test_a_replay_after_release_is_refused(prefill: Rank, decode: Rank) -> None:
    ticket = prefill.ticket("r1", REMOTE)
    prefill.service.register_lease("r1", [REMOTE])
    decode.pull(prefill.peer, ticket, LOCAL)
    decode.await_load()
    prefill.await_freed()

    decode.pull(prefill.peer, ticket, LOCAL)

    assert decode.await_load().missing_blocks == set(LOCAL)
    assert (await fetch_stats(decode.socket))["failures"] == {"rejected_lease_released": 1}


async def test_an_expired_lease_is_refused(tmp_path: Path, decode: Rank) -> None:
    with running_rank(tmp_path, "prefill", lease_s=0.2) as prefill:
        prefill.service.register_lease("r1", [REMOTE])
        assert prefill.await_freed() == {"r1"}

        decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)

        assert decode.await_load().missing_blocks == set(LOCAL)
        assert (await fetch_stats(decode.socket))["failures"] == {"rejected_lease_expired": 1}
        assert (await fetch_stats(prefill.socket))["failures"]["lease_expired"] >= 1


def test_a_watched_lease_outlives_its_term(tmp_path: Path, decode: Rank) -> None:
    with running_rank(tmp_path, "prefill", lease_s=0.4) as prefill:
        prefill.service.register_lease("r1", [REMOTE])
        decode.service.watch("mine", "r1", [prefill.peer])
        time.sleep(0.9)

        decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)

        assert decode.await_load().missing_blocks == frozenset()


async def test_a_forged_ticket_is_refused(prefill: Rank, decode: Rank) -> None:
    prefill.service.register_lease("r1", [REMOTE])
    ticket = prefill.ticket("r1", REMOTE) | {"mac": "0" * 64}

    decode.pull(prefill.peer, ticket, LOCAL)

    assert decode.await_load().missing_blocks == set(LOCAL)
    assert (await fetch_stats(prefill.socket))["failures"]["bad_signature"] >= 1


async def test_blocks_outside_the_lease_are_refused(prefill: Rank, decode: Rank) -> None:
    prefill.service.register_lease("r1", [REMOTE])
    before = decode.block(LOCAL[0])

    decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL, remote=[7, 3, 4, 61])

    assert decode.await_load().missing_blocks == set(LOCAL)
    assert decode.block(LOCAL[0]) == before
    assert (await fetch_stats(prefill.socket))["failures"] == {"forged_blocks": 1}


@pytest.mark.parametrize(
    ("field", "value"),
    [("kv_revision", "r2"), ("dtype", "float16"), ("model", "other"), ("block_size", 32), ("engine_version", "0.33.0")],
)
async def test_engines_that_differ_are_refused_with_the_field(
    tmp_path: Path, prefill: Rank, field: str, value: object
) -> None:
    with running_rank(tmp_path, "decode", engine={field: value}) as decode:
        prefill.service.register_lease("r1", [REMOTE])

        decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)

        assert decode.await_load().missing_blocks == set(LOCAL)
        assert f"refused_mismatch_{field}" in (await fetch_stats(decode.socket))["failures"]
        assert f"mismatch_{field}" in (await fetch_stats(prefill.socket))["failures"]


async def test_a_peer_with_another_key_is_refused(tmp_path: Path, prefill: Rank) -> None:
    keys = tmp_path / "other"
    keys.mkdir()
    (keys / "kv.key").write_text(base64.urlsafe_b64encode(b"x" * 32).decode())
    with running_rank(tmp_path, "decode", keys_dir=keys) as decode:
        decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)

        assert decode.await_load().missing_blocks == set(LOCAL)
        assert (await fetch_stats(prefill.socket))["failures"]["bad_hello_mac"] >= 1


async def test_an_engine_restarted_at_the_same_address_is_not_taken_for_its_former_self(
    prefill: Rank, decode: Rank
) -> None:
    former = Peer(ADDRESS, prefill.settings.port, "prefill/before")
    ticket = prefill.ticket("r1", REMOTE, remote_engine_id="prefill/before")
    prefill.service.register_lease("r1", [REMOTE])

    decode.pull(former, ticket, LOCAL)

    assert decode.await_load().missing_blocks == set(LOCAL)
    assert "stale_engine" in (await fetch_stats(decode.socket))["failures"]


async def test_a_dead_address_fails_fast_and_opens_the_circuit(decode: Rank, prefill: Rank) -> None:
    with socket.create_server((ADDRESS, 0)) as listener:
        dead = Peer(ADDRESS, listener.getsockname()[1], "gone")
    for number in range(4):
        decode.pull(dead, prefill.ticket(f"r{number}", REMOTE), LOCAL)
        started_s = time.monotonic()
        assert decode.await_load().missing_blocks == set(LOCAL)
        assert time.monotonic() - started_s < 2.0

    stats = await fetch_stats(decode.socket)
    assert stats["circuits_open"] == [f"{ADDRESS}:{dead.port}"]
    assert stats["failures"]["circuit_open"] >= 1
    assert set(stats["failures"]) == {"connect_failed", "circuit_open"}


@pytest.mark.parametrize("is_black_hole", [False, True])
def test_a_connection_that_fails_mid_chunk_costs_only_the_blocks_that_did_not_come(
    prefill: Rank, decode: Rank, is_black_hole: bool
) -> None:
    two_and_a_half_blocks = int(2.5 * BLOCK_BYTES)
    relay = Relay((ADDRESS, prefill.settings.port), two_and_a_half_blocks, is_black_hole=is_black_hole)
    prefill.service.register_lease("r1", [REMOTE])
    started_s = time.monotonic()

    decode.pull(Peer(ADDRESS, relay.port, prefill.engine.engine_id), prefill.ticket("r1", REMOTE), LOCAL)
    result = decode.await_load()

    took_s = time.monotonic() - started_s
    relay.close()
    # A reset takes what the kernel had received and nobody had read; in a black hole every byte sent is there.
    count = len(LOCAL) - len(result.missing_blocks)
    assert count == 2 if is_black_hole else count <= 2
    assert result.missing_blocks == set(LOCAL[count:])
    assert (result.remote_tokens, result.recomputed_tokens) == (count * TOKENS, (len(LOCAL) - count) * TOKENS)
    assert_copied(prefill, decode, count=count)
    assert took_s < (4.0 if is_black_hole else 2.0)


def test_a_cancelled_load_ends_at_once_and_frees_the_lease(tmp_path: Path, decode: Rank) -> None:
    with running_rank(tmp_path, "prefill", chunk_delay_s_for_test=0.2) as prefill:
        prefill.service.register_lease("r1", [REMOTE])
        decode.pull(prefill.peer, prefill.ticket("r1", REMOTE), LOCAL)
        time.sleep(0.3)
        started_s = time.monotonic()

        decode.service.cancel("r1", [prefill.peer])

        decode.await_load()
        prefill.await_freed()
        assert time.monotonic() - started_s < 2.0


async def test_leases_are_released_by_id_or_by_ticket_also_ahead_of_time(prefill: Rank) -> None:
    prefill.service.register_lease("cmpl-11111111-0", [REMOTE])
    prefill.service.register_lease("cmpl-22222222-0", [REMOTE])
    assert await apply_release(prefill.socket, "11111111") == 1
    assert await apply_release_params(prefill.socket, prefill.ticket("cmpl-22222222-0", REMOTE)) == 1
    assert prefill.await_freed() == {"cmpl-11111111-0", "cmpl-22222222-0"}

    assert await apply_release(prefill.socket, "33333333") == 0
    prefill.service.register_lease("cmpl-33333333-0", [REMOTE])

    assert prefill.await_freed() == {"cmpl-33333333-0"}
    assert (await fetch_stats(prefill.socket))["leases"] == 0


async def test_the_local_socket_explains_what_it_refuses(prefill: Rank) -> None:
    with pytest.raises(LocalError, match="request_id"):
        await apply_release(prefill.socket, "short")
    with pytest.raises(LocalError, match="mac does not verify"):
        await apply_release_params(prefill.socket, prefill.ticket("r1", REMOTE) | {"mac": "0" * 64})
    with pytest.raises(LocalError, match="no answer"):
        await fetch_stats(prefill.socket.with_name("nobody.sock"))


async def test_a_stranger_on_the_port_is_turned_away_and_counted(prefill: Rank) -> None:
    with socket.create_connection((ADDRESS, prefill.settings.port), timeout=2) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionResetError):  # a close with our bytes unread
            assert stranger.recv(100) == b""
    assert (await fetch_stats(prefill.socket))["failures"] == {"not_our_protocol": 1}


def test_a_port_that_is_taken_is_a_clear_error(tmp_path: Path, prefill: Rank) -> None:
    with (
        pytest.raises(KvServiceError, match="Address already in use"),
        running_rank(tmp_path, "decode", port=prefill.settings.port),
    ):
        pass


def test_missing_keys_are_a_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(KvServiceError, match=r"kv\.key is missing"),
        running_rank(tmp_path, "decode", keys_dir=tmp_path / "nowhere"),
    ):
        pass
