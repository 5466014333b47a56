"""libcudart through ctypes: streams, events and copies, which is all that KV transfer needs of a GPU.

Not torch: then the transports run in tests against a library without a GPU, and in threads that torch knows nothing
of. Addresses, streams and events are integers. Importing this loads nothing.
"""

import ctypes
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_NOT_READY = 600  # cudaErrorNotReady
_NON_BLOCKING = 1  # cudaStreamNonBlocking: not ordered with the engine's default stream
_NO_TIMING = 2  # cudaEventDisableTiming
_INFER_DIRECTION = 4  # cudaMemcpyDefault
_PORTABLE = 1  # cudaHostAllocPortable
_IN_STREAM_ORDER = 1  # cudaMemcpySrcAccessOrderStream
_BATCH_FROM = 13_00_0  # cudaMemcpyBatchAsync had one argument more before CUDA 13

Copy = tuple[int, int, int]  # to, from, bytes


class CudaError(RuntimeError):
    """A call failed: `call` is the function, `code` a cudaError_t; the message holds CUDA's own words."""

    def __init__(self, call: str, code: int, detail: str) -> None:
        super().__init__(f"{call}: error {code}: {detail}")
        self.call = call
        self.code = code


class CudaMissingError(RuntimeError):
    """No libcudart, or no device; the message says where it was looked for and what to set."""


class CopyAttributes(ctypes.Structure):
    """cudaMemcpyAttributes: the location hints are for managed memory, which KV never is."""

    _fields_ = (
        ("srcAccessOrder", ctypes.c_int),
        ("srcLocHint", ctypes.c_int * 2),
        ("dstLocHint", ctypes.c_int * 2),
        ("flags", ctypes.c_uint),
    )


def find_cuda_library() -> str:
    """VLLM_CUDART_SO_PATH as for vLLM itself, else the library that torch has loaded or its wheels bring."""
    if path := os.environ.get("VLLM_CUDART_SO_PATH"):
        return path
    return next(_candidates(), "libcudart.so")


def _candidates() -> Iterator[str]:
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "libcudart" in line and "/" in line:
            yield line[line.index("/") :]
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for pattern in ("cu1[3-9]/lib/libcudart.so.*", "cuda_runtime/lib/libcudart.so.*"):
            yield from map(str, sorted(Path(folder).glob(pattern), reverse=True))


class CudaLibrary:
    """One loaded libcudart. A thread calls `use_device` before anything else."""

    def __init__(self, path: str | None = None) -> None:
        """Raises CudaMissingError."""
        chosen = path or find_cuda_library()
        try:
            self._library = ctypes.CDLL(chosen)
        except OSError as error:
            raise CudaMissingError(f"{chosen} cannot be loaded; set VLLM_CUDART_SO_PATH: {error}") from error
        _declare(self._library)
        count, version = ctypes.c_int(), ctypes.c_int()
        try:
            self._call("cudaRuntimeGetVersion", ctypes.byref(version))
            self._call("cudaGetDeviceCount", ctypes.byref(count))
        except CudaError as error:
            raise CudaMissingError(f"{chosen} finds no device: {error}") from error
        self.version = version.value
        self.device_count = count.value
        self._can_batch = self.version >= _BATCH_FROM and hasattr(self._library, "cudaMemcpyBatchAsync")

    def use_device(self, device: int) -> None:
        """For all calls of this thread from now on. Raises CudaError, as every method does."""
        self._call("cudaSetDevice", device)

    def make_stream(self) -> int:
        """Not ordered with any other stream."""
        return self._make("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def make_event(self) -> int:
        return self._make("cudaEventCreateWithFlags", _NO_TIMING)

    def destroy_event(self, event: int) -> None:
        self._call("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """The event is done when all is that was enqueued on `stream` so far."""
        self._call("cudaEventRecord", event, stream)

    def is_done(self, event: int) -> bool:
        return self._call("cudaEventQuery", event) != _NOT_READY

    def await_on_stream(self, stream: int, event: int) -> None:
        """What is enqueued from now on runs after the event, as it was last recorded."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def copy(self, copies: Sequence[Copy], stream: int) -> None:
        """Enqueue copies that do not overlap, in any direction between device and pinned memory."""
        if self._can_batch and len(copies) > 1:
            self._copy_batch(copies, stream)
            return
        for target, source, size in copies:
            self._call("cudaMemcpyAsync", target, source, size, _INFER_DIRECTION, stream)

    def erase(self, address: int, size_bytes: int, stream: int) -> None:
        self._call("cudaMemsetAsync", address, 0, size_bytes, stream)

    def allocate(self, size_bytes: int) -> int:
        """Device memory."""
        return self._make("cudaMalloc", size_bytes)

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def allocate_pinned(self, size_bytes: int) -> int:
        """Host memory that devices copy from and to without a detour."""
        return self._make("cudaHostAlloc", size_bytes, _PORTABLE)

    def free_pinned(self, address: int) -> None:
        self._call("cudaFreeHost", address)

    def _copy_batch(self, copies: Sequence[Copy], stream: int) -> None:
        """One call for a chunk's hundreds of pages, which cost more to enqueue than to copy."""
        count = len(copies)
        targets, sources, sizes = zip(*copies, strict=True)
        self._call(
            "cudaMemcpyBatchAsync",
            (ctypes.c_void_p * count)(*targets),
            (ctypes.c_void_p * count)(*sources),
            (ctypes.c_size_t * count)(*sizes),
            count,
            ctypes.byref(CopyAttributes(srcAccessOrder=_IN_STREAM_ORDER)),
            ctypes.byref(ctypes.c_size_t(0)),
            1,
            stream,
        )

    def _make(self, name: str, argument: int, *more: int) -> int:
        made = ctypes.c_void_p()
        self._call(name, ctypes.byref(made), argument, *more)
        return made.value or 0

    def _call(self, name: str, *arguments: object) -> int:
        code = int(getattr(self._library, name)(*arguments))
        if code not in (0, _NOT_READY):
            words: bytes = self._library.cudaGetErrorString(code) or b""
            raise CudaError(name, code, words.decode(errors="replace"))
        return code


def _declare(library: ctypes.CDLL) -> None:
    """Argument types: without them ctypes would cut 64-bit handles and sizes to 32 bits."""
    handle, size, number, flags = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
    pointer = ctypes.POINTER
    signatures: dict[str, list[object]] = {
        "cudaRuntimeGetVersion": [pointer(number)],
        "cudaGetDeviceCount": [pointer(number)],
        "cudaSetDevice": [number],
        "cudaStreamCreateWithFlags": [pointer(handle), flags],
        "cudaStreamDestroy": [handle],
        "cudaStreamWaitEvent": [handle, handle, flags],
        "cudaEventCreateWithFlags": [pointer(handle), flags],
        "cudaEventDestroy": [handle],
        "cudaEventRecord": [handle, handle],
        "cudaEventQuery": [handle],
        "cudaMemcpyAsync": [handle, handle, size, number, handle],
        "cudaMemsetAsync": [handle, number, size, handle],
        "cudaMalloc": [pointer(handle), size],
        "cudaFree": [handle],
        "cudaHostAlloc": [pointer(handle), size, flags],
        "cudaFreeHost": [handle],
    }
    if hasattr(library, "cudaMemcpyBatchAsync"):
        pointers, sizes = pointer(handle), pointer(size)
        batch: list[object] = [pointers, pointers, sizes, size, pointer(CopyAttributes), sizes, size, handle]
        signatures["cudaMemcpyBatchAsync"] = batch
    for name, argument_types in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = argument_types, number
    library.cudaGetErrorString.argtypes, library.cudaGetErrorString.restype = [number], ctypes.c_char_p
