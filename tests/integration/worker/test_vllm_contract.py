"""What we take for granted of the pinned vLLM, asked of that vLLM itself, in its own interpreter."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from integration.worker.conftest import CODE

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

PARSE = """
import json, sys
from pathlib import Path
from tandem_api.worker import EngineConfig, KVTransferConfig, ModelConfig, WorkerConfig
from tandem_worker.engines.vllm import build_arguments, find_build
from tandem_worker.models import ModelFiles
from tandem_worker.settings import Settings
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

engine = EngineConfig(
    type="vllm", dtype="bfloat16", quantization="fp8", kv_cache_dtype="fp8_e4m3", block_size=32,
    gpu_memory_utilization=0.8, kv_cache_memory_bytes=1 << 26, prefix_caching=True, max_num_seqs=8,
    max_num_batched_tokens=4096, chunked_prefill=True, max_model_len=2048, enforce_eager=True,
    tensor_parallel=1, pipeline_parallel=1, extra_args=("--seed=7",),
)
config = WorkerConfig(
    fleet="ns/f", role="prefill", kv_revision="r", engine=engine, kv_transfer=KVTransferConfig(),
    model=ModelConfig(name="m", served_name="served", source="synthetic://tiny-llama"),
)
settings = Settings(config, "127.0.0.9", Path("/keys"), Path("/run"), Path("/data"))
model = ModelFiles("models/tiny", revision="main", is_tiny=True)
arguments = build_arguments(settings, model, find_build(), "instance")
parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
validate_parsed_serve_args(parsed)
print(json.dumps({
    "served_model_name": parsed.served_model_name, "host": parsed.host, "port": parsed.port, "seed": parsed.seed,
    "middleware": parsed.middleware, "block_size": parsed.block_size, "max_num_seqs": parsed.max_num_seqs,
    "enable_prompt_tokens_details": parsed.enable_prompt_tokens_details, "enforce_eager": parsed.enforce_eager,
    "enable_prefix_caching": parsed.enable_prefix_caching, "quantization": parsed.quantization,
    "kv_cache_memory_bytes": parsed.kv_cache_memory_bytes, "max_model_len": parsed.max_model_len,
    "kv_connector": parsed.kv_transfer_config.kv_connector, "kv_role": parsed.kv_transfer_config.kv_role,
    "policy": parsed.kv_transfer_config.kv_load_failure_policy,
}))
"""
MODEL = """
import hashlib, json, sys
from pathlib import Path
from tandem_worker.tiny_model import ensure_tiny_model
from transformers import AutoConfig, AutoTokenizer
for name in ("one", "two"):
    directory = ensure_tiny_model(Path(sys.argv[1]) / name)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = "Tell me a story, please: \\u00e9\\u4e2d"
    messages = [{"role": "user", "content": "hi"}]
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    print(json.dumps({
        "weights": hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest(),
        "vocabulary": [len(tokenizer), AutoConfig.from_pretrained(directory).vocab_size],
        "round_trip": tokenizer.decode(tokenizer(text).input_ids) == text, "chat": chat,
        "left_behind": sorted(path.name for path in Path(sys.argv[1]).iterdir()),
    }))
"""


def run_in_vllm(worker_python: str, script: str, *arguments: str) -> list[dict[str, object]]:
    """The JSON lines that a script prints in the interpreter that has vLLM."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": CODE, "HF_HUB_OFFLINE": "1"}
    command = [worker_python, "-c", script, *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


def test_vllms_own_parser_understands_every_argument(worker_python: str) -> None:
    assert run_in_vllm(worker_python, PARSE) == [
        {
            "served_model_name": ["served"],
            "host": "127.0.0.9",
            "port": 8000,
            "seed": 7,
            "middleware": ["tandem_worker.engines.middleware.EngineGate"],
            "block_size": 32,
            "max_num_seqs": 8,
            "enable_prompt_tokens_details": True,
            "enforce_eager": True,
            "enable_prefix_caching": True,
            "quantization": "fp8",
            "kv_cache_memory_bytes": 1 << 26,
            "max_model_len": 2048,
            "kv_connector": "TandemConnector",
            "kv_role": "kv_producer",
            "policy": "recompute",
        }
    ]


def test_every_worker_makes_the_identical_tiny_model(worker_python: str, tmp_path: Path) -> None:
    one, two = run_in_vllm(worker_python, MODEL, str(tmp_path))
    assert one["weights"] == two["weights"]
    assert one["vocabulary"] == [1000, 1000]
    assert one["round_trip"]
    assert one["chat"] == "<|begin|>user: hi\nassistant:"
    assert two["left_behind"] == ["one", "two"]
