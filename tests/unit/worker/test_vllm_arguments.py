"""What vLLM is started with."""

from pathlib import Path
from typing import Any

import pytest
from unit.worker.parts import build_config

from tandem_api.conditions import Reason
from tandem_api.worker import EngineConfig, ModelConfig, Role
from tandem_worker.engines.vllm import (
    Build,
    build_arguments,
    build_environment,
    check_build,
)
from tandem_worker.errors import WorkerError
from tandem_worker.models import ModelFiles
from tandem_worker.settings import Settings

GPU, CPU = Build("0.32.1", is_cpu=False), Build("0.32.0", is_cpu=True)
LLAMA = ModelFiles("meta-llama/Llama-3.1-8B", revision="abc", is_local=False)
TINY = ModelFiles("models/tiny", is_tiny=True)


def make_settings(role: Role = Role.MIXED, **engine: Any) -> Settings:
    config = build_config(role, engine=EngineConfig(type="vllm", **engine))
    return Settings(config, "10.0.0.7", Path("/keys"), Path("/run/tandem"), Path("/data"))


def test_every_typed_field_becomes_its_argument() -> None:
    settings = make_settings(
        dtype="bfloat16",
        quantization="fp8",
        kv_cache_dtype="fp8_e4m3",
        block_size=16,
        gpu_memory_utilization=0.9,
        kv_cache_memory_bytes=1024,
        prefix_caching=True,
        max_num_seqs=64,
        max_num_batched_tokens=4096,
        chunked_prefill=False,
        max_model_len=8192,
        enforce_eager=False,
        attention_backend="FLASHINFER",
        tensor_parallel=4,
        pipeline_parallel=2,
        extra_args=("--seed=7",),
    )
    expected = """
        meta-llama/Llama-3.1-8B --revision abc --dtype bfloat16 --quantization fp8 --kv-cache-dtype fp8_e4m3
        --block-size 16 --gpu-memory-utilization 0.9 --kv-cache-memory-bytes 1024 --enable-prefix-caching
        --max-num-seqs 64 --max-num-batched-tokens 4096 --no-enable-chunked-prefill --max-model-len 8192
        --no-enforce-eager --attention-backend FLASHINFER --tensor-parallel-size 4 --pipeline-parallel-size 2
        --seed=7 --served-model-name tiny --host 10.0.0.7 --port 8000
        --middleware tandem_worker.engines.middleware.EngineGate --enable-prompt-tokens-details
        --disable-uvicorn-access-log
    """
    assert build_arguments(settings, LLAMA, GPU, "i") == expected.split()


def test_what_is_not_set_is_left_to_vllm_on_a_gpu_except_the_slots_that_we_report() -> None:
    arguments = build_arguments(make_settings(), LLAMA, GPU, "i")
    assert "--block-size" not in arguments
    assert "--enforce-eager" not in arguments
    assert arguments[arguments.index("--max-num-seqs") + 1] == "256"


def test_the_cpu_build_gets_settings_that_start_soon_on_a_laptop() -> None:
    arguments = " ".join(build_arguments(make_settings(), TINY, CPU, "i"))
    assert "--block-size 32" in arguments
    assert "--enforce-eager" in arguments
    assert "--kv-cache-memory-bytes 67108864" in arguments
    assert "--distributed-executor-backend uni" in arguments
    assert "--block-size 64" in " ".join(build_arguments(make_settings(block_size=64), TINY, CPU, "i"))


def test_the_pods_own_environment_wins_over_defaults_and_not_over_what_we_own() -> None:
    environ = {"HF_HOME": "/mine", "OMP_NUM_THREADS": "8", "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PATH": "/bin"}
    environment = build_environment(environ, make_settings(), TINY, CPU)
    assert environment["HF_HOME"] == "/mine"
    assert environment["OMP_NUM_THREADS"] == "8"
    assert environment["PATH"] == "/bin"
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert environment["TANDEM_TINY_MODEL_DIR"] == "/data/models/tiny"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["HOME"] == "/data"


def test_a_model_of_the_hub_is_fetched_by_vllm_into_our_volume() -> None:
    environment = build_environment({}, make_settings(), LLAMA, GPU)
    assert "HF_HUB_OFFLINE" not in environment
    assert "TANDEM_TINY_MODEL_DIR" not in environment
    assert environment["HF_HOME"] == "/data/huggingface"


@pytest.mark.parametrize("version", ["0.32.0", "0.32.5", "0.32.0+cu129", "0.32.1rc1"])
def test_supported_versions_pass(version: str) -> None:
    assert check_build(Build(version, is_cpu=False)).version == version


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "1.0", "unknown"])
def test_other_versions_are_refused_with_the_range(version: str) -> None:
    with pytest.raises(WorkerError, match=r">=0\.32,<0\.33.*spec\.engine\.image") as caught:
        check_build(Build(version, is_cpu=False))
    assert caught.value.reason is Reason.IMAGE_UNAVAILABLE


def test_a_volume_model_keeps_one_name_wherever_it_is_mounted(tmp_path: Path) -> None:
    from tandem_worker.models import link_model, locate_model

    names = set()
    for pod in ("a", "b"):
        volume, data = tmp_path / pod / "volume", tmp_path / pod / "data"
        volume.mkdir(parents=True)
        (volume / "config.json").write_text("{}")
        model = locate_model(ModelConfig(name="m", served_name="m", source="pvc://claim/llama/8b", path=str(volume)))
        link_model(model, data)
        link_model(model, data)  # a container that starts again
        assert (data / model.name_or_path / "config.json").read_text() == "{}"
        names.add(model.name_or_path)
    assert names == {"models/pvc-claim-llama-8b"}


@pytest.mark.parametrize(
    ("source", "path", "reason", "words"),
    [
        ("pvc://claim/none", "/nowhere", Reason.MODEL_UNAVAILABLE, "no config.json"),
        ("pvc://claim/none", None, Reason.INVALID_SPEC, "must be mounted"),
        ("ftp://x/y", None, Reason.INVALID_SPEC, "hf://ORG/NAME"),
    ],
)
def test_a_source_without_a_model_is_refused(source: str, path: str | None, reason: Reason, words: str) -> None:
    from tandem_worker.models import locate_model

    with pytest.raises(WorkerError, match=words) as caught:
        locate_model(ModelConfig(name="m", served_name="m", source=source, path=path))
    assert caught.value.reason is reason
