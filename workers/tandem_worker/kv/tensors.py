"""vLLM's KV cache tensors as addresses: the one place that looks at torch tensors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tandem_worker.kv.cuda_library import CudaError, CudaLibrary, CudaMissingError
from tandem_worker.kv.device_memory import DeviceMemory
from tandem_worker.kv.layout import Group, KvLayout, Region
from tandem_worker.kv.memory import HostMemory

_DIMENSIONS = 4


class TensorError(ValueError):
    """KV cache tensors of a form that this connector cannot transfer; the message says which and what to set."""


def describe_caches(
    caches: Mapping[str, Any],
    layer_groups: Sequence[Sequence[str]],
    num_blocks: int,
    layout_name: str,
    load_cuda: Callable[[], CudaLibrary] = CudaLibrary,
) -> tuple[KvLayout, HostMemory | DeviceMemory]:
    """Layout and memory of the KV tensors `[kernel blocks, heads, tokens, content]`, strided at will.

    `num_blocks` counts the scheduler's blocks, of which each holds a whole number of kernel blocks.
    Raises TensorError.
    """
    groups = tuple(
        Group(tuple(_describe_layer(name, caches, num_blocks) for name in layers)) for layers in layer_groups
    )
    storages = [caches[name].untyped_storage() for layers in layer_groups for name in layers]
    ranges = [(storage.data_ptr(), storage.nbytes()) for storage in storages]
    layout = KvLayout(groups, block_outermost=layout_name.startswith("BL"))
    devices = {(caches[name].device.type, caches[name].device.index) for layers in layer_groups for name in layers}
    if devices <= {("cpu", None)}:
        return layout, HostMemory(ranges)
    return layout, _open_device(devices, ranges, load_cuda)


def _open_device(
    devices: set[tuple[str, int | None]], ranges: list[tuple[int, int]], load_cuda: Callable[[], CudaLibrary]
) -> DeviceMemory:
    kind, index = min(devices, key=str)
    if len(devices) > 1 or kind != "cuda":
        places = sorted(":".join(map(str, device)) for device in devices)
        raise TensorError(f"KV is on {places}; it must be all on the host, or all on one CUDA device")
    try:
        return DeviceMemory(load_cuda(), index or 0, ranges)
    except (CudaMissingError, CudaError) as error:
        raise TensorError(f"KV is on CUDA device {index}, and CUDA cannot be used for its transfer: {error}") from error


def _describe_layer(name: str, caches: Mapping[str, Any], num_blocks: int) -> Region:
    if name not in caches:
        raise TensorError(f"layer {name} has no KV cache tensor of its own")
    tensor = caches[name]
    if tensor.dim() == _DIMENSIONS - 1:
        tensor = tensor.unsqueeze(1)  # MLA without its head of one
    if tensor.dim() != _DIMENSIONS:
        raise TensorError(f"layer {name} has shape {tuple(tensor.shape)}; expected [blocks, heads, tokens, content]")
    kernel_blocks, heads, tokens, content = tensor.shape
    if kernel_blocks % num_blocks:
        raise TensorError(f"layer {name} has {kernel_blocks} blocks, no multiple of the scheduler's {num_blocks}")
    if tensor.stride()[1:] != (tokens * content, content, 1) and heads > 1:
        raise TensorError(f"layer {name}: heads are not outermost within a page; set VLLM_KV_CACHE_LAYOUT=LBHNC")
    pages = kernel_blocks // num_blocks
    page_stride = tensor.stride(0) * tensor.element_size()
    page = heads * tokens * content * tensor.element_size()
    return Region(tensor.data_ptr(), num_blocks, page_stride * pages, page_stride, page, pages, heads)
