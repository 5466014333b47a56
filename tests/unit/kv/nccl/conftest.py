"""The fake GPU, in this process: prefill on its device 0, decode on its device 1."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from unit.kv.nccl.fake import Ledger, build_fake, find_compiler
from unit.kv.rank import Rank, running_rank

REMOTE, LOCAL = [7, 3, 4, 60], [1, 2, 50, 9]
DEVICES = {"prefill": 0, "decode": 1, "prefill-2": 2, "decode-2": 3}


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C compiler: the fake libnccl cannot be built")
    return build_fake(compiler, tmp_path_factory.mktemp("fake"))


@pytest.fixture
def ledger(fake_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Whatever a test does, nothing may be done that a real GPU would answer with a hang or with garbage."""
    monkeypatch.setenv("VLLM_NCCL_SO_PATH", str(fake_library))
    monkeypatch.setenv("VLLM_CUDART_SO_PATH", str(fake_library))
    monkeypatch.setenv("FAKE_CUDA_DEVICES", str(len(DEVICES)))
    ledger = Ledger(fake_library)
    yield ledger
    assert ledger.violations == ""


def gpu_rank(directory: Path, name: str, **settings: Any) -> AbstractContextManager[Rank]:
    """A rank on a fake GPU, with deadlines that suit a busy machine."""
    patient = {"chunk_timeout_s": 5.0, "nccl_open_timeout_s": 5.0, "handshake_timeout_s": 5.0, "heartbeat_s": 1.0}
    return running_rank(directory, name, **{"transport": "nccl", "device": DEVICES[name]} | patient | settings)


@pytest.fixture
def prefill(tmp_path: Path, ledger: Ledger) -> Iterator[Rank]:
    with gpu_rank(tmp_path, "prefill") as rank:
        yield rank


@pytest.fixture
def decode(tmp_path: Path, ledger: Ledger) -> Iterator[Rank]:
    with gpu_rank(tmp_path, "decode") as rank:
        yield rank


def load(prefill: Rank, decode: Rank, request_id: str = "r1") -> set[int]:
    """Pull REMOTE into LOCAL; returns the blocks that did not come, and holds the others against their source."""
    prefill.service.register_lease(request_id, [REMOTE])
    decode.pull(prefill.peer, prefill.ticket(request_id, REMOTE), LOCAL)
    missing = set(decode.await_load(20).missing_blocks)
    came = [(there, here) for there, here in zip(REMOTE, LOCAL, strict=True) if here not in missing]
    assert all(prefill.block(there) == decode.block(here) for there, here in came)
    return missing


def wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)
