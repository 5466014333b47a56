"""What we take for granted of the pinned vLLM, asked of that vLLM itself, in its own interpreter."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from integration.worker.conftest import CODE

from tandem_api.engine_flags import KV_RELEVANT, OWNED, find_flag_problem
from tandem_api.v1alpha1.engine import KVDtype, Quantization
from tandem_api.v1alpha1.speculative import SpeculationMethod
from tandem_worker.engine_api import KV_USAGE_METRIC, RUNNING_METRIC, WAITING_METRIC

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

WORKER = {
    "fleet": "ns/f",
    "role": "prefill",
    "kv_revision": "r",
    "model": {"name": "m", "served_name": "served", "source": "synthetic://tiny-llama"},
    "kv_transfer": {"connector": "tcp"},
}
COMMON = {
    "dtype": "bfloat16",
    "quantization": "fp8",
    "kv_cache_dtype": "fp8_e4m3",
    "block_size": 32,
    "gpu_memory_utilization": 0.8,
    "kv_cache_memory_bytes": 1 << 26,
    "prefix_caching": True,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 4096,
    "chunked_prefill": True,
    "long_prefill_token_threshold": 1024,
    "async_scheduling": False,
    "max_model_len": 2048,
    "enforce_eager": True,
    "attention_backend": "FLASHINFER",
    "extra_args": ["--seed=7"],
}
WIDE = {
    "prefix_caching": False,
    "chunked_prefill": False,
    "tensor_parallel": 8,
    "pipeline_parallel": 2,
    "data_parallel": 4,
    "expert_parallel": True,
    "context_parallel": 2,
    "speculative": {"method": "eagle3", "tokens": 3, "draft": {"source": "hf://org/head", "revision": "v1"}},
    "lora_max_rank": 32,
    "lora_max_in_batch": 4,
    "lora_max_in_memory": 8,
}
NGRAM = {"method": "ngram", "tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 5}
ADAPTERS = [
    {"name": "sql", "source": "hf://org/sql"},
    {"name": "team/chat", "source": "pvc://claim/chat", "path": "/models/weights-0/chat"},
]
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


def run_in_vllm(worker_python: str, *arguments: str) -> list[dict[str, Any]]:
    """The JSON lines that Python prints in the interpreter that has vLLM."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": CODE, "HF_HUB_OFFLINE": "1"}
    command = [worker_python, *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


def build_worker(role: str, engine: dict[str, Any], adapters: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    transfer = None if role == "mixed" else WORKER["kv_transfer"]
    model = {**WORKER["model"], "adapters": adapters}
    return {**WORKER, "role": role, "model": model, "engine": {"type": "vllm", **engine}, "kv_transfer": transfer}


@pytest.fixture(scope="module")
def parser(worker_python: str) -> dict[str, Any]:
    """What the pinned vLLM's parser made of four workers, and what it knows."""
    workers = [
        build_worker("prefill", {**COMMON, "speculative": NGRAM}),
        build_worker("decode", {**COMMON, "speculative": NGRAM}),
        build_worker("mixed", WIDE, ADAPTERS),
        build_worker("mixed", {}),
        build_worker("mixed", {"nodes": 2, "tensor_parallel": 16}),
    ]
    (report,) = run_in_vllm(worker_python, str(Path(__file__).with_name("vllm_parser_probe.py")), json.dumps(workers))
    return report


def test_vllms_own_parser_understands_every_argument_of_a_prefill_worker(parser: dict[str, Any]) -> None:
    expected = {
        "dtype": "bfloat16",
        "quantization": "fp8",
        "kv_cache_dtype": "fp8_e4m3",
        "block_size": 32,
        "gpu_memory_utilization": 0.8,
        "kv_cache_memory_bytes": 1 << 26,
        "enable_prefix_caching": True,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 4096,
        "enable_chunked_prefill": True,
        "long_prefill_token_threshold": 1024,
        "async_scheduling": False,
        "max_model_len": 2048,
        "enforce_eager": True,
        "attention_backend": "FLASHINFER",
        "seed": 7,
        "served_model_name": ["served"],
        "host": "127.0.0.9",
        "port": 8000,
        "middleware": ["tandem_worker.engines.middleware.EngineGate"],
        "enable_prompt_tokens_details": True,
        "kv_transfer_config": {"kv_connector": "TandemConnector", "kv_role": "kv_producer"},
        "speculative_config": None,
    }
    assert {name: parser["read"][0][name] for name in expected} == expected


def test_ngrams_are_guessed_where_tokens_are_decoded(parser: dict[str, Any]) -> None:
    guess = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 5}
    assert parser["read"][1]["speculative_config"] == guess


def test_vllms_own_parser_understands_parallelism_drafts_and_adapters(parser: dict[str, Any]) -> None:
    expected = {
        "tensor_parallel_size": 8,
        "pipeline_parallel_size": 2,
        "data_parallel_size": 4,
        "enable_expert_parallel": True,
        "decode_context_parallel_size": 2,
        "enable_prefix_caching": False,
        "enable_chunked_prefill": False,
        "speculative_config": {
            "method": "eagle3",
            "num_speculative_tokens": 3,
            "model": "org/head",
            "revision": "v1",
        },
        "enable_lora": True,
        "max_lora_rank": 32,
        "max_loras": 4,
        "max_cpu_loras": 8,
        "lora_modules": [["sql", "org/sql"], ["team/chat", "models/pvc-claim-chat"]],
        "kv_transfer_config": None,
    }
    assert {name: parser["read"][2][name] for name in expected} == expected


def test_vllms_own_parser_understands_the_place_of_a_pod_among_nodes(parser: dict[str, Any]) -> None:
    expected = {"nnodes": 2, "node_rank": 1, "master_addr": "leader.group", "master_port": 29500, "headless": True}
    assert {name: parser["read"][4][name] for name in expected} == expected


def test_what_has_no_field_value_is_vllms_to_choose(parser: dict[str, Any]) -> None:
    plain = parser["read"][3]
    assert (plain["data_parallel_size"], plain["decode_context_parallel_size"]) == (1, 1)
    assert (plain["enable_expert_parallel"], plain["enable_lora"], plain["speculative_config"]) == (False, None, None)


def test_every_value_that_admission_lets_through_is_one_of_vllms(parser: dict[str, Any]) -> None:
    assert set(get_args(Quantization)) <= set(parser["quantizations"])
    assert set(get_args(KVDtype)) <= set(parser["cache_dtypes"])
    assert set(get_args(SpeculationMethod)) <= set(parser["speculative_methods"])
    made = {name for read in parser["read"] for name in read["speculative_config"] or ()}
    assert made <= set(parser["speculative_fields"])


def test_extra_arguments_are_refused_when_they_are_tandems_and_else_not(parser: dict[str, Any]) -> None:
    known = {option.removeprefix("--") for option in parser["options"] if option.startswith("--")}
    assert set(OWNED) <= known
    assert set(KV_RELEVANT) <= known
    switches = {name for name in known if name.startswith("no-") and name.removeprefix("no-") in OWNED}
    refused = {name for name in known if find_flag_problem([f"--{name}"])}
    assert refused == set(OWNED) | switches
    assert not [option for option in parser["options"] if option in ("-O", "-cc") and find_flag_problem([option])]


def test_every_worker_makes_the_identical_tiny_model(worker_python: str, tmp_path: Path) -> None:
    one, two = run_in_vllm(worker_python, "-c", MODEL, str(tmp_path))
    assert one["weights"] == two["weights"]
    assert one["vocabulary"] == [1000, 1000]
    assert one["round_trip"]
    assert one["chat"] == "<|begin|>user: hi\nassistant:"
    assert two["left_behind"] == ["one", "two"]


def test_the_gauges_that_we_read_are_named_so_in_the_pinned_vllm(worker_python: str) -> None:
    packages = next((Path(worker_python).parents[1] / "lib").glob("python3*/site-packages"))
    sources = (packages / "vllm" / "v1" / "metrics" / "loggers.py").read_text()
    for name in (KV_USAGE_METRIC, RUNNING_METRIC, WAITING_METRIC):
        assert f'name="{name}"' in sources, name
