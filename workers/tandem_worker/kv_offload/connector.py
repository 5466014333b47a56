"""vLLM's offloading connector, safe beside another that loads. Named like its parent, under which vLLM keeps metrics.

A store copies blocks one step after they were computed. Blocks that are granted to somebody else before are copied
first ("flushed"). vLLM looks for them among the requests that run in a step; those that wait for remote KV of another
connector are not among them, and the bytes that arrive for them would be stored under the former owner's hash: wrong
KV, silently, for every later prompt with that prefix. Seen in vLLM 0.32.0; `test_offload.py` shows it without this.
"""

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector import (
    OffloadingConnector as VllmOffloadingConnector,
)


class OffloadingConnector(VllmOffloadingConnector):  # type: ignore[misc]  # no vLLM where types are checked
    """Flushes before others' loads, too."""

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        if num_external_tokens == 0:
            granted = (block for group in blocks.get_block_ids() for block in group if block)
            self.scheduler._current_batch_allocated_block_ids.update(granted)
