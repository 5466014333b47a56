"""Calls the real libnccl in the worker's Python and prints what came, as JSON. Started by test_nccl_library.py."""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

from tandem_worker.kv.nccl_library import Config, NcclError, NcclLibrary, Result, build_config, find_library


def _attempt(call: Any) -> dict[str, Any]:
    try:
        return {"value": str(call())}
    except NcclError as error:
        return {"call": error.call, "result": error.result.name, "text": str(error)}


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
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
