"""The rank's socket over NIXL answers what our own connector's answers."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tandem_worker.kv.keys import KeyRing
from tandem_worker.kv.local import LocalError, apply_release, apply_release_params, fetch_load, fetch_stats
from tandem_worker.kv.params import issue_ticket
from tandem_worker.kv_nixl.ledger import Ledger
from tandem_worker.kv_nixl.local_service import LocalService
from tandem_worker.kv_nixl.orders import LoadNote, StepNotes

RING = KeyRing("k1", b"k" * 32)
LEASED = "cmpl-router-7-0-abcdef"


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger(True, block_bytes=10, tombstone_s=60, circuit_failures=3, circuit_cooldown_s=10)
    ledger.begin_step(StepNotes([LoadNote("mine", "theirs", "10.0.0.7", 64, 2)]), [LEASED], 1.0)
    ledger.end_step((), ["mine"], set(), 2.0)
    return ledger


@pytest.fixture
def socket(tmp_path: Path, ledger: Ledger) -> Iterator[Path]:
    service = LocalService(ledger, threading.Lock(), "ns/fleet", RING, tmp_path / "run" / "kv-0.sock")
    service.start()
    yield tmp_path / "run" / "kv-0.sock"
    service.stop()


async def test_stats_and_loads_are_told(socket: Path) -> None:
    stats = await fetch_stats(socket)
    assert (stats["leases"], stats["bytes_received"], stats["remote_tokens"]) == (1, 20, 64)
    load = await fetch_load(socket, "theirs")
    assert load is not None
    assert load["prefill"] == "10.0.0.7"
    assert await fetch_load(socket, "nobodys") is None


async def test_a_lease_is_released_by_name_and_by_signed_parameters_only(socket: Path, ledger: Ledger) -> None:
    with pytest.raises(LocalError, match="unknown op"):
        await apply_release(socket, "cmpl")  # would match strangers
    with pytest.raises(LocalError, match="mac"):
        await apply_release_params(socket, build_ticket() | {"mac": "0" * 64})
    assert await apply_release_params(socket, build_ticket()) == 1
    assert await apply_release(socket, "router-7") == 0
    assert ledger.take_to_free() == {LEASED}
    assert (await fetch_stats(socket))["leases"] == 0


def build_ticket() -> dict[str, Any]:
    fields = {
        "remote_engine_id": "e", "remote_request_id": LEASED, "remote_block_ids": [[1]], "remote_host": "10.0.0.7",
        "remote_port": 5700, "tp_size": 1, "remote_num_tokens": 16, "prompt_digest": "0" * 64, "expiry": 0,
        "fleet": "ns/fleet",
    }  # fmt: skip
    return issue_ticket(fields, RING).model_dump()


def test_a_socket_that_cannot_be_made_is_said_at_start(tmp_path: Path, ledger: Ledger) -> None:
    service = LocalService(ledger, threading.Lock(), "ns/fleet", RING, tmp_path / ("x" * 200))
    with pytest.raises(OSError, match="too long"):
        service.start()
