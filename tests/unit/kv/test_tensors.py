"""How KV cache tensors become addresses, held against real memory."""

import ctypes
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import pytest

from tandem_worker.kv.cuda_library import CudaMissingError
from tandem_worker.kv.layout import Piece, chunk_pieces, plan_chunks
from tandem_worker.kv.memory import HostMemory, MemoryRangeError
from tandem_worker.kv.tensors import TensorError, describe_caches

ELEMENT_BYTES = 2


@dataclass
class FakeDevice:
    type: str = "cpu"
    index: int | None = None


class FakeTensor:
    """As much of torch.Tensor as is looked at, over memory of its own."""

    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...] | None = None, device: str = "cpu") -> None:
        self.shape = shape
        self.strides = strides or tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        self.device = FakeDevice(device)
        size = ELEMENT_BYTES * (1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True)))
        self.memory = ctypes.create_string_buffer(size)

    def dim(self) -> int:
        return len(self.shape)

    def stride(self, axis: int | None = None) -> Any:
        return self.strides if axis is None else self.strides[axis]

    def element_size(self) -> int:
        return ELEMENT_BYTES

    def data_ptr(self) -> int:
        return ctypes.addressof(self.memory)

    def nbytes(self) -> int:
        return len(self.memory)

    def untyped_storage(self) -> "FakeTensor":
        return self

    def unsqueeze(self, axis: int) -> "FakeTensor":
        widened = FakeTensor(
            (*self.shape[:axis], 1, *self.shape[axis:]), (*self.strides[:axis], 0, *self.strides[axis:])
        )
        widened.memory = self.memory
        return widened


def test_pages_of_a_layer_lie_where_the_tensor_keeps_them() -> None:
    tensor = FakeTensor((6, 2, 4, 8))
    layout, memory = describe_caches({"l0": tensor}, [["l0"]], num_blocks=6, layout_name="LBHNC")
    page = 2 * 4 * 8 * ELEMENT_BYTES
    (chunk,) = plan_chunks(layout, [[5]], [layout.groups[0].all_heads], 1 << 20)

    (piece,) = chunk_pieces(layout, chunk, [layout.groups[0].all_heads])

    assert (piece.address - tensor.data_ptr(), piece.size_bytes) == (5 * page, page)
    memory.views([piece])[0][:] = b"\x07" * page
    assert tensor.memory.raw == bytes(5 * page) + b"\x07" * page


def test_a_scheduler_block_of_several_kernel_blocks_is_moved_whole() -> None:
    layout, _ = describe_caches({"l0": FakeTensor((6, 2, 4, 8))}, [["l0"]], num_blocks=3, layout_name="LBHNC")
    region = layout.groups[0].regions[0]
    assert (region.pages_per_block, region.block_stride_bytes) == (2, 2 * region.page_stride_bytes)


def test_a_latent_cache_without_a_head_axis_has_one_head() -> None:
    layout, _ = describe_caches({"l0": FakeTensor((6, 4, 8))}, [["l0"]], num_blocks=6, layout_name="LBHNC")
    assert layout.groups[0].regions[0].heads == 1


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (FakeTensor((6, 8)), "has shape"),
        (FakeTensor((7, 2, 4, 8)), "no multiple"),
        (FakeTensor((6, 2, 4, 8), strides=(64, 8, 16, 1)), "VLLM_KV_CACHE_LAYOUT=LBHNC"),
    ],
)
def test_a_cache_that_cannot_be_transferred_is_refused_with_the_reason(tensor: FakeTensor, says: str) -> None:
    with pytest.raises(TensorError, match=f"layer l0.*{says}"):
        describe_caches({"l0": tensor}, [["l0"]], num_blocks=6, layout_name="LBHNC")


def test_a_cache_on_a_gpu_without_cuda_is_refused_with_what_cuda_says() -> None:
    def load() -> NoReturn:
        raise CudaMissingError("libcudart.so cannot be loaded")

    with pytest.raises(TensorError, match=r"CUDA cannot be used.*libcudart\.so cannot be loaded"):
        describe_caches({"l0": FakeTensor((6, 2, 4, 8), device="cuda")}, [["l0"]], 6, "LBHNC", load)


def test_caches_in_several_places_are_refused() -> None:
    caches = {"l0": FakeTensor((6, 2, 4, 8)), "l1": FakeTensor((6, 2, 4, 8), device="cuda")}
    with pytest.raises(TensorError, match="all on one CUDA device"):
        describe_caches(caches, [["l0", "l1"]], 6, "LBHNC")


def test_a_layer_without_a_cache_of_its_own_is_refused() -> None:
    with pytest.raises(TensorError, match="l9"):
        describe_caches({}, [["l9"]], num_blocks=6, layout_name="LBHNC")


def test_memory_outside_the_registered_ranges_is_never_touched() -> None:
    buffer = ctypes.create_string_buffer(64)
    start = ctypes.addressof(buffer)
    memory = HostMemory([(start, 32), (start + 32, 32)])
    assert len(memory.views([Piece(start + 16, 32)])[0]) == 32, "neighbouring ranges are one"
    for piece in (Piece(start - 1, 4), Piece(start + 62, 4), Piece(start + 64, 1)):
        with pytest.raises(MemoryRangeError):
            memory.views([piece])
