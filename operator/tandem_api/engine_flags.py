"""Arguments of the engine that belong to Tandem: `extraArgs` may hold any other.

vLLM's parser takes the last of repeated options, `-` and `_` alike, `--no-` before a switch, `.key` behind a JSON
option, and every abbreviation that fits one option only. So an argument is judged as that parser would read it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_TANDEM_SETS_IT = "Tandem sets it itself: remove it"

_FIELDS = {
    "dtype": "engine.dtype",
    "quantization": "engine.quantization",
    "kv-cache-dtype": "engine.kvCache.dtype",
    "block-size": "engine.kvCache.blockSize",
    "gpu-memory-utilization": "engine.kvCache.gpuMemoryUtilization",
    "device-memory-utilization": "engine.kvCache.gpuMemoryUtilization",
    "kv-cache-memory-bytes": "engine.kvCache.memory",
    "enable-prefix-caching": "engine.prefixCaching",
    "max-num-seqs": "engine.batching.maxNumSeqs",
    "max-num-batched-tokens": "engine.batching.maxNumBatchedTokens",
    "enable-chunked-prefill": "engine.batching.chunkedPrefill",
    "long-prefill-token-threshold": "engine.batching.longPrefillTokenThreshold",
    "async-scheduling": "engine.batching.asyncScheduling",
    "max-model-len": "engine.maxModelLen",
    "enforce-eager": "engine.enforceEager",
    "attention-backend": "engine.attentionBackend",
    "speculative-config": "engine.speculative",
    "spec-method": "engine.speculative.method",
    "spec-model": "engine.speculative.source",
    "spec-tokens": "engine.speculative.tokens",
    "enable-lora": "model.adapters",
    "lora-modules": "model.adapters",
    "max-loras": "engine.lora.maxInBatch",
    "max-cpu-loras": "engine.lora.maxInMemory",
    "max-lora-rank": "engine.lora.maxRank",
    "tensor-parallel-size": "parallelism.tensor",
    "pipeline-parallel-size": "parallelism.pipeline",
    "data-parallel-size": "parallelism.data",
    "enable-expert-parallel": "parallelism.expert",
    "decode-context-parallel-size": "parallelism.context",
    "prefill-context-parallel-size": "parallelism.context",
    "model": "model.source",
    "revision": "model.revision",
    "served-model-name": "model.servedName",
    "hf-token": "model.tokenSecret",
    "nnodes": "nodes",
}
_INTERNAL = (
    *("host", "port", "uds", "api-key", "root-path", "middleware", "config", "grpc", "grpc-port", "headless"),
    *("ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "enable-ssl-refresh", "ssl-cert-reqs", "ssl-ciphers"),
    *("kv-transfer-config", "kv-events-config", "ec-transfer-config", "kv-offloading-size", "kv-offloading-backend"),
    *("node-rank", "master-addr", "master-port", "api-server-count", "distributed-executor-backend"),
    *("data-parallel-rank", "data-parallel-start-rank", "data-parallel-size-local", "data-parallel-address"),
    *("data-parallel-rpc-port", "data-parallel-backend", "data-parallel-hybrid-lb", "data-parallel-external-lb"),
    *("data-parallel-multi-port-external-lb", "data-parallel-supervisor-port"),
    *("enable-prompt-tokens-details", "disable-uvicorn-access-log", "disable-log-stats", "download-dir"),
)
OWNED = {name: f"set {field}" for name, field in _FIELDS.items()} | dict.fromkeys(_INTERNAL, _TANDEM_SETS_IT)
"""Option of vLLM without its dashes → what to do instead."""

KV_RELEVANT = (
    *("hf-overrides", "hf-config-path", "quantization-config", "code-revision", "config-format", "model-impl"),
    *("model-class-overrides", "tokenizer", "tokenizer-mode", "tokenizer-revision", "attention-config"),
    *("kv-cache-dtype-skip-layers", "disable-sliding-window", "disable-hybrid-kv-cache-manager", "swa-bounded-replay"),
    *("kv-sharing-fast-prefill", "mamba-cache-dtype", "mamba-ssm-cache-dtype", "mamba-block-size", "mamba-cache-mode"),
)
"""Options that decide what KV holds or what tokens are: both roles must agree on them."""

_SHORT_ALLOWED = ("O", "cc")  # -O3, -cc.mode=3; every other short option is one of ours, or abbreviates one
_NUMBER = re.compile(r"-[0-9.]")


@dataclass(frozen=True)
class FlagProblem:
    """An argument that may not stand in extraArgs, and what to do instead."""

    argument: str
    fix: str

    def __str__(self) -> str:
        return f"{self.argument} may not be set here: {self.fix}"


def find_flag_problem(arguments: Iterable[str], *, of_one_role: bool = False) -> FlagProblem | None:
    """The first argument that is not the user's to set; `of_one_role`: in engineOverrides."""
    problems = (_judge(argument, of_one_role) for argument in arguments)
    return next((problem for problem in problems if problem), None)


def _judge(argument: str, of_one_role: bool) -> FlagProblem | None:
    shown = re.split(r"[=.\s]", argument, maxsplit=1)[0] or argument[:1]
    if argument.startswith("--"):
        return _judge_long(shown, of_one_role)
    if argument.startswith("-") and not _NUMBER.match(argument):
        return _judge_short(shown)
    return None


def _judge_long(shown: str, of_one_role: bool) -> FlagProblem | None:
    name = shown.removeprefix("--").replace("_", "-").lower()
    for form in (name, name.removeprefix("no-")):
        if owned := _find(form, OWNED):
            return FlagProblem(shown, OWNED[owned])
        if of_one_role and _find(form, KV_RELEVANT):
            return FlagProblem(shown, "KV depends on it, so both roles need it: move it to engine.extraArgs")
    return None if name else FlagProblem(shown, "it ends the options: remove it")


def _find(name: str, flags: Iterable[str]) -> str | None:
    """The flag that vLLM's parser may take `name` for: itself, or one that it abbreviates."""
    if not name or name in flags:
        return name or None
    return next((flag for flag in flags if flag.startswith(name)), None)


def _judge_short(shown: str) -> FlagProblem | None:
    if shown.removeprefix("-").startswith(_SHORT_ALLOWED):
        return None
    return FlagProblem(shown, "short options collide with Tandem's own: use the long option")


def cel_pattern() -> str:
    """RE2 pattern of the same refusals for admission, abbreviations apart: those stall the fleet instead."""
    names = "|".join(sorted(OWNED)).replace("-", "[-_]")
    short = "".join(sorted({name[0] for name in _SHORT_ALLOWED}))
    return rf"^(--(no[-_])?({names})([=.].*)?|--|-[^-0-9.{short}].*)$"
