"""libnccl through ctypes: what a two-rank edge for KV needs, and torch's and vLLM's own bindings lack.

Struct and constants are those of nccl.h; tests compare them with the header that ships beside the library.
Why ctypes, and what was never run: docs/design/nccl.md. Importing this loads nothing.
"""

import ctypes
import importlib.util
import os
from enum import IntEnum
from pathlib import Path

UNIQUE_ID_BYTES = 128
UNDEFINED_INT = -(2**31)
API_MAGIC = 0xCAFEBEEF
LEAST_VERSION = (2, 18, 0)
_INT8 = 0  # ncclDataType_t: KV travels as bytes
_MEMORY_TOTAL = 3  # ncclCommMemStat_t
# Blocks of threads that a communicator may occupy while the model computes beside it
DEFAULT_MAX_CTAS = 4


class Result(IntEnum):
    """ncclResult_t."""

    SUCCESS = 0
    UNHANDLED_CUDA_ERROR = 1
    SYSTEM_ERROR = 2
    INTERNAL_ERROR = 3
    INVALID_ARGUMENT = 4
    INVALID_USAGE = 5
    REMOTE_ERROR = 6
    IN_PROGRESS = 7


class NcclError(RuntimeError):
    """A call failed: `result` as NCCL names it, `call` the function; the message holds NCCL's own last words."""

    def __init__(self, call: str, result: Result, detail: str) -> None:
        super().__init__(f"{call}: {result.name.lower()}: {detail}")
        self.call = call
        self.result = result


class NcclMissingError(RuntimeError):
    """No libnccl, or one that is too old; the message says where it was looked for and what to set."""


class Config(ctypes.Structure):
    """ncclConfig_t as of NCCL 2.18. Newer libraries read `size` and `version` and default what is not there."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("magic", ctypes.c_uint),
        ("version", ctypes.c_uint),
        ("blocking", ctypes.c_int),
        ("cgaClusterSize", ctypes.c_int),
        ("minCTAs", ctypes.c_int),
        ("maxCTAs", ctypes.c_int),
        ("netName", ctypes.c_char_p),
        ("splitShare", ctypes.c_int),
    )


class UniqueId(ctypes.Structure):
    """ncclUniqueId: passed by value."""

    _fields_ = (("internal", ctypes.c_char * UNIQUE_ID_BYTES),)


def build_config(max_ctas: int = DEFAULT_MAX_CTAS) -> Config:
    """Non-blocking: only such communicators can be aborted while a peer is absent."""
    undefined = UNDEFINED_INT
    version = LEAST_VERSION[0] * 10000 + LEAST_VERSION[1] * 100 + LEAST_VERSION[2]
    return Config(ctypes.sizeof(Config), API_MAGIC, version, 0, undefined, 1, max_ctas, None, undefined)


def find_library() -> str:
    """VLLM_NCCL_SO_PATH as for vLLM itself, else the library that torch's wheel brings, else the system's."""
    if path := os.environ.get("VLLM_NCCL_SO_PATH"):
        return path
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        candidate = Path(folder) / "nccl" / "lib" / "libnccl.so.2"
        if candidate.exists():
            return str(candidate)
    return "libnccl.so.2"


class NcclLibrary:
    """One loaded libnccl. Addresses, communicators and streams are integers, as CUDA's own handles."""

    def __init__(self, path: str | None = None) -> None:
        """Raises NcclMissingError."""
        chosen = path or find_library()
        try:
            self._library = ctypes.CDLL(chosen)
        except OSError as error:
            raise NcclMissingError(f"{chosen} cannot be loaded; set VLLM_NCCL_SO_PATH: {error}") from error
        _declare(self._library)
        self.version = self._read_version()
        if self.version < LEAST_VERSION:
            raise NcclMissingError(f"{chosen} is NCCL {self.version}; at least {LEAST_VERSION} is needed")

    def make_unique_id(self) -> bytes:
        """Names one communicator; travels to the peer over the control channel. Raises NcclError."""
        unique_id = UniqueId()
        self._call("ncclGetUniqueId", ctypes.byref(unique_id))
        return ctypes.string_at(ctypes.addressof(unique_id), UNIQUE_ID_BYTES)

    def init_rank(self, unique_id: bytes, rank: int, config: Config) -> tuple[int, Result]:
        """Begin a communicator of two; usually IN_PROGRESS, then poll `fetch_state`. Raises NcclError."""
        if len(unique_id) != UNIQUE_ID_BYTES:
            raise ValueError(f"a unique id has {UNIQUE_ID_BYTES} bytes, not {len(unique_id)}")
        communicator = ctypes.c_void_p()
        by_value = UniqueId.from_buffer_copy(unique_id)
        result = self._call(
            "ncclCommInitRankConfig", ctypes.byref(communicator), 2, by_value, rank, ctypes.byref(config)
        )
        return communicator.value or 0, result

    def fetch_state(self, communicator: int) -> Result:
        """SUCCESS, IN_PROGRESS, or what befell the communicator since it was made. Raises NcclError."""
        state = ctypes.c_int()
        self._call("ncclCommGetAsyncError", communicator, ctypes.byref(state))
        return Result(state.value)

    def send(self, address: int, size_bytes: int, peer: int, communicator: int, stream: int) -> Result:
        """Enqueue on `stream`; needs the peer's `receive`. Raises NcclError."""
        return self._call("ncclSend", address, size_bytes, _INT8, peer, communicator, stream)

    def receive(self, address: int, size_bytes: int, peer: int, communicator: int, stream: int) -> Result:
        """Enqueue on `stream`; occupies the GPU until the peer sends. Raises NcclError."""
        return self._call("ncclRecv", address, size_bytes, _INT8, peer, communicator, stream)

    def abort(self, communicator: int) -> Result:
        """End it at once, whatever the peer does. May itself hang: call it from a thread that may be given up."""
        return self._call("ncclCommAbort", communicator)

    def revoke(self, communicator: int) -> bool:
        """Stop what is under way; the communicator is good for nothing but its end. False before NCCL 2.29."""
        if not hasattr(self._library, "ncclCommRevoke"):
            return False
        self._call("ncclCommRevoke", communicator, 0)
        return True

    def register(self, communicator: int, address: int, size_bytes: int) -> bool:
        """Let the network read and write `allocate`d memory without a copy; False before NCCL 2.19."""
        if not hasattr(self._library, "ncclCommRegister"):
            return False
        self._call("ncclCommRegister", communicator, address, size_bytes, ctypes.byref(ctypes.c_void_p()))
        return True

    def allocate(self, size_bytes: int) -> int:
        """Device memory that NCCL can register; free it with `free`. Raises NcclError."""
        address = ctypes.c_void_p()
        self._call("ncclMemAlloc", ctypes.byref(address), size_bytes)
        return address.value or 0

    def free(self, address: int) -> None:
        self._call("ncclMemFree", address)

    def fetch_memory_bytes(self, communicator: int) -> int | None:
        """GPU memory of a communicator; None where the library cannot say (before 2.29)."""
        if not hasattr(self._library, "ncclCommMemStats"):
            return None
        value = ctypes.c_uint64()
        self._call("ncclCommMemStats", communicator, _MEMORY_TOTAL, ctypes.byref(value))
        return value.value

    def _read_version(self) -> tuple[int, int, int]:
        code = ctypes.c_int()
        self._call("ncclGetVersion", ctypes.byref(code))
        return code.value // 10000, code.value // 100 % 100, code.value % 100

    def _call(self, name: str, *arguments: object) -> Result:
        result = Result(getattr(self._library, name)(*arguments))
        if result not in (Result.SUCCESS, Result.IN_PROGRESS):
            words = self._library.ncclGetLastError(None) or self._library.ncclGetErrorString(int(result))
            raise NcclError(name, result, words.decode(errors="replace"))
        return result


def _declare(library: ctypes.CDLL) -> None:
    """Argument types: without them ctypes would cut 64-bit handles and sizes to 32 bits."""
    handle, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    pointer = ctypes.POINTER
    moved: list[object] = [handle, size, number, number, handle, handle]
    signatures: dict[str, list[object]] = {
        "ncclGetVersion": [pointer(number)],
        "ncclGetUniqueId": [pointer(UniqueId)],
        "ncclCommInitRankConfig": [pointer(handle), number, UniqueId, number, pointer(Config)],
        "ncclCommGetAsyncError": [handle, pointer(number)],
        "ncclCommAbort": [handle],
        "ncclSend": moved,
        "ncclRecv": moved,
        "ncclMemAlloc": [pointer(handle), size],
        "ncclMemFree": [handle],
    }
    later: dict[str, list[object]] = {
        "ncclCommMemStats": [handle, number, pointer(ctypes.c_uint64)],
        "ncclCommRevoke": [handle, number],
        "ncclCommRegister": [handle, handle, size, pointer(handle)],
    }
    signatures |= {name: types for name, types in later.items() if hasattr(library, name)}
    for name, argument_types in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = argument_types, number
    library.ncclGetLastError.argtypes, library.ncclGetLastError.restype = [handle], ctypes.c_char_p
    library.ncclGetErrorString.argtypes, library.ncclGetErrorString.restype = [number], ctypes.c_char_p
