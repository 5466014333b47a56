"""vLLM's NIXL connector with Tandem's contract around it. Named like its parent, under which vLLM keeps its metrics.

Loaded by `kv_connector: NixlConnector` with `kv_connector_module_path: tandem_worker.kv_nixl.connector`.
"""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vllm.distributed import get_tensor_model_parallel_rank
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    KVConnectorWorkerMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector import NixlConnector as VllmNixlConnector

from tandem_worker.kv.idle import pause_when_nothing_runs
from tandem_worker.kv.keys import KeyFiles
from tandem_worker.kv_nixl.ledger import Ledger
from tandem_worker.kv_nixl.local_service import LocalService
from tandem_worker.kv_nixl.orders import StepNotes
from tandem_worker.kv_nixl.settings import read_settings
from tandem_worker.kv_nixl.tickets import TicketOffice


@dataclass
class OpenCircuits(KVConnectorWorkerMetadata):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """From the ranks to the scheduler: prefill workers to leave alone."""

    hosts: frozenset[str]

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        return OpenCircuits(self.hosts | other.hosts)


class NixlConnector(VllmNixlConnector):  # type: ignore[misc]  # as above
    """Both roles; vLLM makes one object per role and process."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        """Raises SettingsError."""
        super().__init__(vllm_config, role, kv_cache_config)
        self._told = read_settings(self._kv_transfer_config.kv_connector_extra_config)
        self._signer = KeyFiles(self._told.keys_dir)
        self._office = TicketOffice(self._told.fleet, self._told.lease_s, self._signer, time.time)
        self._circuits_open: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._local: LocalService | None = None

    # Scheduler side

    def on_new_request(self, request: Any) -> None:
        self._office.on_new_request(request, self._circuits_open)
        super().on_new_request(request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        if not self._office.may_load(request, num_computed_tokens):
            return 0, False
        matched: tuple[int | None, bool] = super().get_num_new_matched_tokens(request, num_computed_tokens)
        return matched

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        count = sum(map(len, blocks.get_unhashed_block_ids_all_groups())) if num_external_tokens else 0
        self._office.on_allocated(request, num_external_tokens, count)
        super().update_state_after_alloc(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        if self._kv_transfer_config.is_kv_producer:
            pause_when_nothing_runs(scheduler_output.total_num_scheduled_tokens)
        metadata = super().build_connector_meta(scheduler_output)
        metadata.tandem = self._office.take_notes()
        return metadata

    def update_connector_output(self, connector_output: Any) -> None:
        if isinstance(told := connector_output.kv_connector_worker_meta, OpenCircuits):
            self._circuits_open = told.hosts
        super().update_connector_output(connector_output)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self._sign(request, super().request_finished(request, block_ids))

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return self._sign(request, super().request_finished_all_groups(request, block_ids))

    def _sign(self, request: Any, end: tuple[bool, dict[str, Any] | None]) -> tuple[bool, dict[str, Any] | None]:
        self._office.on_finished(request.request_id)
        is_kept, params = end
        if not is_kept or params is None:
            return end
        return True, self._office.sign(request, params)

    # Worker side

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """Raises OSError when the local socket cannot be made."""
        super().register_kv_caches(kv_caches)
        rank = get_tensor_model_parallel_rank()
        told, groups = self._told, self._kv_cache_config.transfer_groups
        block_bytes = max(group.kv_cache_spec.page_size_bytes * len(group.layer_names) for group in groups)
        self._ledger = Ledger(rank == 0, block_bytes, told.tombstone_s, told.circuit_failures, told.circuit_cooldown_s)
        self._local = LocalService(self._ledger, self._lock, told.fleet, self._signer, told.local_socket(rank))
        self._local.start()

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        assert self._ledger is not None
        metadata: Any = self._connector_metadata
        notes: StepNotes = metadata.tandem
        with self._lock:
            self._ledger.begin_step(notes, metadata.reqs_to_send, time.monotonic())
        super().start_load_kv(forward_context, **kwargs)

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        assert self._ledger is not None
        results = super().get_transfer_results(finished_req_ids)
        with self._lock:
            results.finished_sending |= self._free(self._ledger.take_to_free())
            self._ledger.end_step(
                results.finished_sending, results.finished_recving, results.failed_recving, time.monotonic()
            )
        return results

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        if self._ledger is None:
            return None
        with self._lock:
            hosts = self._ledger.find_open_circuits(time.monotonic())
        had_any, self._circuits_open = bool(self._circuits_open), hosts
        return OpenCircuits(hosts) if hosts or had_any else None

    def shutdown(self) -> None:
        if self._local is not None:
            self._local.stop()
        super().shutdown()

    def _free(self, request_ids: Iterable[str]) -> set[str]:
        """Take leases that were released on order from NIXL; those that it ended by itself meanwhile stay out."""
        worker: Any = self.connector_worker
        kept = {request_id for request_id in request_ids if request_id in worker._reqs_to_send}
        for request_id in kept:
            del worker._reqs_to_send[request_id]
            worker._reqs_to_process.discard(request_id)
            worker.consumer_notification_counts_by_req.pop(request_id, None)
            worker.expected_consumer_notifications_by_req.pop(request_id, None)
        return kept
