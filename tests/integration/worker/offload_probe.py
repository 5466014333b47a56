"""Drives vLLM's real scheduler until another connector's load is given blocks that a store has still to copy.

    PYTHON_WITH_VLLM offload_probe.py MODEL_DIR CONNECTOR_MODULE KEYS_DIR

Prints JSON: the blocks that the load will overwrite, those that the pending store reads, whether it is flushed first.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from vllm.config import set_current_vllm_config
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from tandem_worker.kv.keys import KeyFiles
from tandem_worker.kv.params import digest_prompt, issue_ticket

BLOCK_TOKENS, BLOCKS, PROMPT_TOKENS = 32, 20, 400
FLEET = "test/fleet"


def build_config(model: str, offloading_module: str, keys: Path) -> Any:
    own = {
        "bind_host": "127.0.0.1", "port": 5600, "keys_dir": str(keys), "kv_revision": "r", "fleet": FLEET,
        "engine_id": "decode", "run_dir": "/nowhere",
    }  # fmt: skip
    children = [
        {
            "kv_connector": "TandemConnector",
            "kv_connector_module_path": "tandem_worker.kv.connector",
            "kv_role": "kv_consumer",
            "kv_connector_extra_config": own,
        },
        {
            "kv_connector": "OffloadingConnector",
            "kv_connector_module_path": offloading_module,
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"cpu_bytes_to_use": 64 << 20},
        },
    ]
    beside = {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_consumer",
        "engine_id": "decode",
        "kv_connector_extra_config": {"connectors": children},
    }
    arguments = EngineArgs(
        model=model, max_model_len=512, block_size=BLOCK_TOKENS, enforce_eager=True, kv_cache_memory_bytes=64 << 20,
        kv_transfer_config=beside,
    )  # fmt: skip
    return arguments.create_engine_config()


def build_scheduler(config: Any) -> Scheduler:
    spec = FullAttentionSpec(block_size=BLOCK_TOKENS, num_kv_heads=2, head_size=64, dtype=torch.float32)
    cache = KVCacheConfig(num_blocks=BLOCKS, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["0"], spec)])
    cache.kv_cache_layout, cache.hash_block_size = "LBHNC", BLOCK_TOKENS
    config.cache_config.num_gpu_blocks = BLOCKS
    return Scheduler(config, cache, StructuredOutputManager(config), BLOCK_TOKENS, BLOCK_TOKENS)


def build_request(request_id: str, prompt: list[int], hasher: Any, params: dict[str, Any] | None) -> Request:
    extra = {"kv_transfer_params": params} if params else None
    sampling = SamplingParams(max_tokens=1, extra_args=extra)
    sampling.update_from_generation_config({}, eos_token_id=0)
    return Request(request_id, prompt, sampling, None, block_hasher=hasher)


def issue(prompt: list[int], keys: Path) -> dict[str, Any]:
    blocks = -(-len(prompt) // BLOCK_TOKENS)
    fields = {
        "remote_engine_id": "prefill", "remote_request_id": "there", "remote_block_ids": [list(range(1, blocks + 1))],
        "remote_host": "127.0.0.1", "remote_port": 5600, "tp_size": 1, "remote_num_tokens": len(prompt),
        "prompt_digest": digest_prompt(prompt), "expiry": 0, "fleet": FLEET,
    }  # fmt: skip
    return issue_ticket(fields, KeyFiles(keys)).to_params()


def main() -> None:
    model, offloading_module, keys = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    config = build_config(model, offloading_module, keys)
    with set_current_vllm_config(config):
        scheduler = build_scheduler(config)
    hash_fn = get_hash_fn_by_name(config.cache_config.prefix_caching_hash_algo)
    init_none_hash(hash_fn)
    hasher = get_request_block_hasher(BLOCK_TOKENS, hash_fn)
    first, second = list(range(5, 5 + PROMPT_TOKENS)), list(range(500, 500 + PROMPT_TOKENS))
    scheduler.add_request(build_request("first", first, hasher, None))
    scheduler.add_request(build_request("second", second, hasher, issue(second, keys)))
    stores: dict[int, list[int]] = {}
    flushed: set[int] = set()
    load: Any = None
    for _ in range(4):
        step = scheduler.schedule()
        own, offloading = step.kv_connector_metadata.metadata
        stores |= {job: entry.src_spec.block_ids.tolist() for job, entry in offloading.store_jobs.items()}
        if own.orders.loads:
            load = own.orders.loads[0]
            flushed = set(offloading.jobs_to_flush or ())
            break
        names = list(step.num_scheduled_tokens)
        output = ModelRunnerOutput(names, {name: n for n, name in enumerate(names)}, [[7]] * len(names))
        scheduler.update_from_output(step, output)
    assert load is not None, "the second request was never given blocks"
    overwritten = set(load.local_blocks[0])
    pending = {job: blocks for job, blocks in stores.items() if overwritten & set(blocks)}
    print(json.dumps({"overwritten": sorted(overwritten), "pending": pending, "flushed": sorted(flushed)}))


if __name__ == "__main__":
    main()
