"""vLLM's door: `--kv-transfer-config '{"kv_connector": "TandemConnector", "kv_connector_module_path":
"tandem_worker.kv.connector", ...}'`. Importing it touches no device; the API server imports it too.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import vllm
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)
from vllm.v1.kv_cache_interface import AttentionSpec
from vllm.v1.metrics.cache_hit_source import CacheHitSource
from vllm.v1.request import RequestStatus

from tandem_worker.kv.device_memory import DeviceMemory
from tandem_worker.kv.idle import pause_when_nothing_runs
from tandem_worker.kv.keys import KeyFiles
from tandem_worker.kv.memory import HostMemory
from tandem_worker.kv.messages import Engine, GroupShape
from tandem_worker.kv.orders import StepOrders
from tandem_worker.kv.scheduler_side import Identity, SchedulerSide
from tandem_worker.kv.service import KvService
from tandem_worker.kv.settings import KvSettings, SettingsError, read_settings
from tandem_worker.kv.tensors import describe_caches
from tandem_worker.kv.worker_side import WorkerSide

logger = logging.getLogger(__name__)

SUPPORTED_VLLM = ("0.32.",)
LAYOUT = "LBHNC"
_COMPLETE = (RequestStatus.FINISHED_LENGTH_CAPPED, RequestStatus.FINISHED_STOPPED)


class StepMetadata(KVConnectorMetadata):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """Carries the orders of one step from the scheduler to every rank."""

    def __init__(self, orders: StepOrders) -> None:
        self.orders = orders


class TandemConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]  # as above
    """Both roles; vLLM makes one object per role and process, and they share nothing but StepMetadata."""

    _cache_hit_source = CacheHitSource.P2P

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        """Raises SettingsError."""
        super().__init__(vllm_config, role, kv_cache_config)
        _check_engine(vllm_config, kv_cache_config)
        self._settings = read_settings(self._kv_transfer_config.kv_connector_extra_config)
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        if role == KVConnectorRole.SCHEDULER:
            identity = _identify(vllm_config, kv_cache_config, self._settings)
            self._scheduler = SchedulerSide(identity, KeyFiles(self._settings.keys_dir), time.time)

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: Any) -> str | None:
        """Heads outermost in a page, so that a slice of heads is one run of bytes."""
        return LAYOUT

    # Scheduler side

    def on_new_request(self, request: Any) -> None:
        self._scheduling.on_new_request(request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        tokens = self._scheduling.count_remote_tokens(request, num_computed_tokens)
        return tokens, tokens > 0

    def get_loaded_kv_cache_group_ids(self, request: Any) -> tuple[int, ...]:
        return tuple(self._kv_cache_config.transfer_group_ids)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        block_ids = self._kv_cache_config.select_transfer_block_ids(blocks.get_block_ids())
        self._scheduling.on_allocated(request, block_ids, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        if self._kv_transfer_config.is_kv_producer:
            pause_when_nothing_runs(scheduler_output.total_num_scheduled_tokens)
        return StepMetadata(self._scheduling.take_orders())

    def update_connector_output(self, connector_output: Any) -> None:
        for request_id in connector_output.finished_recving or ():
            self._scheduling.on_loaded(request_id)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        params = request.kv_transfer_params
        if not params:
            return False, None
        if not params.get("do_remote_decode"):
            self._scheduling.on_decode_finished(request)
            return False, None
        if request.status not in _COMPLETE:
            return False, None
        ticket = self._scheduling.lease(request, self._kv_cache_config.select_transfer_block_ids(block_ids))
        return ticket is not None, ticket

    # Worker side

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """Raises TensorError, KvServiceError."""
        groups = [group.layer_names for group in self._kv_cache_config.transfer_groups]
        layout, memory = describe_caches(kv_caches, groups, self._kv_cache_config.num_blocks, LAYOUT)
        engine = _describe_engine(self._vllm_config, self._kv_cache_config, self._settings)
        service = KvService(engine, self._settings, layout, memory)
        service.start()
        self._worker = WorkerSide(engine, layout, service, _build_mark(memory))
        if self._settings.corrupt_for_test:
            logger.warning("corrupt_for_test is set: received KV is destroyed on purpose")

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, StepMetadata)
        self._working.perform(metadata.orders)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads are asynchronous: a request runs only when all of its KV is here."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Blocks are sent from where they are, after the prefill."""

    def wait_for_save(self) -> None:
        """Nothing is saved step by step."""

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        results = self._working.take_results()
        return KVConnectorTransferResults(results.sent, results.received, results.failed)

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._working.take_missing_blocks()

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.service.stop()

    @property
    def _scheduling(self) -> SchedulerSide:
        assert self._scheduler is not None, "called on the worker's connector"
        return self._scheduler

    @property
    def _working(self) -> WorkerSide:
        assert self._worker is not None, "called before register_kv_caches, or on the scheduler's connector"
        return self._worker


def _build_mark(memory: HostMemory | DeviceMemory) -> Callable[[], None]:
    """How the engine's thread says where in its own stream it is."""
    if isinstance(memory, HostMemory):
        return lambda: None
    import torch  # only where there is a GPU

    return lambda: memory.mark(torch.cuda.current_stream(memory.device).cuda_stream)


def _check_engine(vllm_config: Any, kv_cache_config: Any) -> None:
    """Refuse at start what would be wrong or impossible at run time."""
    if not vllm.__version__.startswith(SUPPORTED_VLLM):
        raise SettingsError(f"this connector is tested with vLLM {SUPPORTED_VLLM}; this is {vllm.__version__}")
    parallel = vllm_config.parallel_config
    for field in ("pipeline_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, field) != 1:
            raise SettingsError(f"{field} must be 1 with the Tandem connector; use tensor parallelism")
    for group in kv_cache_config.transfer_groups:
        if not isinstance(group.kv_cache_spec, AttentionSpec):
            kind = type(group.kv_cache_spec).__name__
            raise SettingsError(f"KV of kind {kind} cannot be transferred yet; serve this model without prefill pool")


def _identify(vllm_config: Any, kv_cache_config: Any, settings: KvSettings) -> Identity:
    block_sizes = tuple(group.kv_cache_spec.block_size for group in kv_cache_config.transfer_groups)
    return Identity(
        engine_id=_engine_id(vllm_config, settings),
        fleet=settings.fleet,
        host=settings.bind_host,
        port=settings.port,
        tp_size=vllm_config.parallel_config.tensor_parallel_size,
        block_sizes=block_sizes,
        lease_s=settings.lease_s,
    )


def _engine_id(vllm_config: Any, settings: KvSettings) -> str:
    """The worker's name and vLLM's own id, which is new with every start: scheduler and ranks agree on it."""
    return f"{settings.engine_id}/{vllm_config.kv_transfer_config.engine_id}"


def _describe_engine(vllm_config: Any, kv_cache_config: Any, settings: KvSettings) -> Engine:
    model = vllm_config.model_config
    return Engine(
        engine_id=_engine_id(vllm_config, settings),
        fleet=settings.fleet,
        kv_revision=settings.kv_revision,
        engine_version=vllm.__version__,
        model=model.model,
        dtype=str(model.dtype),
        cache_dtype=str(vllm_config.cache_config.cache_dtype),
        layout=LAYOUT,
        block_size=vllm_config.cache_config.block_size,
        groups=[_describe_group(group, model) for group in kv_cache_config.transfer_groups],
        tp_size=vllm_config.parallel_config.tensor_parallel_size,
        tp_rank=get_tensor_model_parallel_rank(),
        transport=settings.transport,
        chunk_bytes=settings.chunk_bytes,
    )


def _describe_group(group: Any, model: Any) -> GroupShape:
    spec = group.kv_cache_spec
    return GroupShape(
        layers=list(group.layer_names),
        page_tokens=spec.block_size,
        head_bytes_per_token=spec.page_size_bytes // (spec.block_size * spec.num_kv_heads),
        kv_heads=1 if model.use_mla else model.get_total_num_kv_heads(),
    )
