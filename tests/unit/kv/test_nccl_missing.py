"""Where there is no libnccl, the binding says so and nothing else happens."""

from pathlib import Path

import pytest

from tandem_worker.kv.nccl_library import NcclLibrary, NcclMissingError, find_library


def test_a_library_that_cannot_be_loaded_is_named_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(NcclMissingError, match=r"no\.so.*VLLM_NCCL_SO_PATH"):
        NcclLibrary(str(tmp_path / "no.so"))


def test_the_setting_of_vllm_decides_which_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_NCCL_SO_PATH", "/opt/libnccl.so.2")
    assert find_library() == "/opt/libnccl.so.2"
