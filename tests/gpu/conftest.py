"""The GPU suite: `pytest -m gpu` on a machine with a CUDA device. Elsewhere it is skipped, and says why.

The libraries are those of TANDEM_WORKER_PYTHON, a Python with vLLM for CUDA; VLLM_NCCL_SO_PATH and
VLLM_CUDART_SO_PATH name others. Both ranks run in processes of their own on device 0, which NCCL has to be told to
allow: NCCL_MULTI_RANK_GPU_ENABLE from 2.30 on, and two host ids, so that older ones take it for two machines.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from unit.kv.nccl.children import Child, running_child

from tandem_worker.kv.cuda_library import CudaLibrary, CudaMissingError
from tandem_worker.kv.nccl_library import NcclLibrary, NcclMissingError

_FIND = """
import sys
sys.path[:0] = {paths!r}
from tandem_worker.kv.cuda_library import find_cuda_library
from tandem_worker.kv.nccl_library import find_library
print(find_library()); print(find_cuda_library())
"""
ROOT = Path(__file__).parents[2]
StartRank = Callable[..., Child]


@pytest.fixture(scope="session")
def libraries() -> dict[str, str]:
    """Environment that names both libraries. Skips where there is no device."""
    named = {name: os.environ.get(name, "") for name in ("VLLM_NCCL_SO_PATH", "VLLM_CUDART_SO_PATH")}
    if not all(named.values()):
        named |= dict(zip(named, _find_libraries(), strict=True))
    try:
        CudaLibrary(named["VLLM_CUDART_SO_PATH"])
        NcclLibrary(named["VLLM_NCCL_SO_PATH"])
    except (CudaMissingError, NcclMissingError) as error:
        pytest.skip(f"no GPU here: {error}")
    return named


def _find_libraries() -> list[str]:
    python = os.environ.get("TANDEM_WORKER_PYTHON")
    if not python:
        pytest.skip("no GPU here: TANDEM_WORKER_PYTHON is not set, whose libnccl and libcudart would be used")
    paths = [str(ROOT / part) for part in ("workers", "operator")]
    command = [python, "-c", _FIND.format(paths=paths)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()


@pytest.fixture
def start_rank(tmp_path: Path, libraries: dict[str, str]) -> Iterator[StartRank]:
    """A rank of the nccl transport, by name, on device 0, in a process of its own."""
    with ExitStack() as stack:

        def start(name: str, **settings: Any) -> Child:
            told = {"device": 0, "nccl_open_timeout_s": 60.0, "transfer_timeout_s": 120.0} | settings
            environment = {
                **libraries,
                "NCCL_MULTI_RANK_GPU_ENABLE": "1",
                "NCCL_HOSTID": f"tandem-{name}",
                "NCCL_SOCKET_IFNAME": "lo",
                "NCCL_IB_DISABLE": "1",
            }
            return stack.enter_context(running_child(tmp_path, name, environment, **told))

        yield start
