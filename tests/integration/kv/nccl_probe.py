"""Calls the real libnccl in the worker's Python and prints what came, as JSON. Started by test_nccl_library.py."""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

from tandem_worker.kv.cuda_library import (
    CopyAttributes,
    CudaError,
    CudaLibrary,
    CudaMissingError,
    _declare,
    find_cuda_library,
)
from tandem_worker.kv.nccl_library import Config, NcclError, NcclLibrary, Result, build_config, find_library


def _attempt(call: Any) -> dict[str, Any]:
    try:
        return {"value": str(call())}
    except NcclError as error:
        return {"call": error.call, "result": error.result.name, "text": str(error)}


def _probe_cuda() -> dict[str, Any]:
    """libcudart without a driver: it loads, says its version, finds no device, and knows all that we call."""
    path = find_cuda_library()
    real = ctypes.CDLL(path)
    headers = Path(path).parent.parent / "include"
    try:
        CudaLibrary(path)
    except CudaMissingError as error:
        refusal = str(error)
    _declare(real)
    library = object.__new__(CudaLibrary)  # which has refused to be made without a device
    library._library, library._can_batch = real, True
    return {
        "refusal": refusal,
        "types": (headers / "driver_types.h").read_text() if headers.exists() else "",
        "api": (headers / "cuda_runtime_api.h").read_text() if headers.exists() else "",
        "attribute_offsets": {name: getattr(CopyAttributes, name).offset for name, _ in CopyAttributes._fields_},
        "attribute_bytes": ctypes.sizeof(CopyAttributes),
        "calls": {
            "make_stream": _attempt_cuda(library.make_stream),
            "make_event": _attempt_cuda(library.make_event),
            "allocate": _attempt_cuda(lambda: library.allocate(1 << 20)),
            "allocate_pinned": _attempt_cuda(lambda: library.allocate_pinned(1 << 20)),
            "use_device": _attempt_cuda(lambda: library.use_device(0)),
            "copy": _attempt_cuda(lambda: library.copy([(1 << 40, 2 << 40, 1 << 33)], 0)),
            "copy_batch": _attempt_cuda(lambda: library.copy([(1 << 40, 2 << 40, 8), (3 << 40, 4 << 40, 8)], 0)),
            "erase": _attempt_cuda(lambda: library.erase(1 << 40, 8, 0)),
        },
    }


def _attempt_cuda(call: Any) -> str:
    try:
        return f"returned {call()}"
    except CudaError as error:
        return str(error)


def main() -> None:
    path = find_library()
    library = NcclLibrary(path)
    first, second = library.make_unique_id(), library.make_unique_id()
    header = Path(path).parent.parent / "include" / "nccl.h"
    report = {
        "version": library.version,
        "header": header.read_text() if header.exists() else "",
        "id_bytes": len(first),
        "ids_differ": first != second,
        "offsets": {name: getattr(Config, name).offset for name, _ in Config._fields_},
        "config_bytes": ctypes.sizeof(Config),
        "config": [getattr(build_config(), name) for name in ("size", "magic", "blocking", "minCTAs", "maxCTAs")],
        "results": {result.name: result.value for result in Result},
        "allocate": _attempt(lambda: library.allocate(1 << 20)),
        "init": _attempt(lambda: library.init_rank(first, 0, build_config())),
        "state_of_null": _attempt(lambda: library.fetch_state(0)),
        "memory_of_null": _attempt(lambda: library.fetch_memory_bytes(0)),
        "send_on_null": _attempt(lambda: library.send(1 << 40, 1 << 33, 1, 0, 0)),
        "register_on_null": _attempt(lambda: library.register(0, 1 << 40, 1 << 33)),
        "cuda": _probe_cuda(),
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
