"""Why an engine ended, from its last words: pure."""

import re
from collections.abc import Sequence

from tandem_api.conditions import Reason
from tandem_worker.errors import WorkerError

MAX_MESSAGE_CHARACTERS = 600  # Kubernetes keeps 4096 bytes of a termination message; people read the first lines

# The first pattern that any error line matches wins: from the specific to the general.
_CAUSES: tuple[tuple[re.Pattern[str], Reason, str], ...] = (
    (
        re.compile(
            r"Repository ?Not ?Found|GatedRepo|RevisionNotFound|LocalEntryNotFound|OfflineMode|Invalid repository ID"
            r"|no file named config\.json|Cannot find any model weights|is not a local folder|couldn't connect to"
            r"|Can't load (the configuration|tokenizer)|not a valid model identifier"
        ),
        Reason.MODEL_UNAVAILABLE,
        "check spec.model.source{model} and spec.model.revision, and that the node can reach them",
    ),
    (
        re.compile(
            r"CUDA out of memory|No CUDA GPUs|No available memory for the cache|Free memory on device|OutOfMemoryError"
            r"|Failed to infer device type|CUDA driver|world size .* larger than the number of available GPUs"
        ),
        Reason.INSUFFICIENT_GPU,
        "give the pool more or larger GPUs, or lower maxModelLen, maxNumSeqs or gpuMemoryUtilization",
    ),
    (
        re.compile(
            r"unrecognized arguments|error: argument|invalid choice|ValidationError|estimated maximum model length"
            r"|larger than the (available|maximum number of tokens)|greater than the derived max_model_len|block.size"
            r"|kv_connector_extra_config"
        ),
        Reason.INVALID_SPEC,
        "change the field of spec.engine that the message names",
    ),
    (
        re.compile(r"No module named '(vllm|torch|tandem_\w+)'"),
        Reason.IMAGE_UNAVAILABLE,
        "set spec.engine.image to a vLLM image that this release supports",
    ),
)
_ERROR_LINE = re.compile(r"\b\w*(Error|Exception|Fault)\b: |\berror: |\bFATAL\b|\bCRITICAL\b|Killed|Segmentation fault")
_ECHO = re.compile(
    r"Engine core initialization failed|See root cause above|During handling of the above|KeyboardInterrupt"
)
_LOG_PREFIX = re.compile(
    r"^(\(\w+[^)]*\)\s*)?(ERROR|CRITICAL|WARNING|INFO)?\s*(\d\d-\d\d \d\d:\d\d:\d\d)?\s*(\[[^\]]+\])?\s*"
)


def diagnose_exit(returncode: int, lines: Sequence[str], model: str = "") -> WorkerError:
    """The typed fault of an engine that ended by itself.

    Args:
        returncode: as of subprocess: negative for a signal.
        lines: its last lines of output, oldest first.
        model: where its weights come from; the library's own words often leave that out.
    """
    errors = [line for line in lines if _ERROR_LINE.search(line) and not _ECHO.search(line)]
    for pattern, reason, fix in _CAUSES:
        if found := next((line for line in reversed(errors) if pattern.search(line)), None):
            told = fix.format(model=f" ({model})" if model else "")
            return WorkerError(reason, f"{_shorten(found)}; {told}", _exit_code(returncode))
    last = _shorten(errors[-1]) if errors else "it left no error line"
    ended = f"was killed by signal {-returncode}" if returncode < 0 else f"ended with code {returncode}"
    return WorkerError(
        Reason.WORKER_CRASHING, f"The engine {ended}: {last}; see the container's log", _exit_code(returncode)
    )


def _exit_code(returncode: int) -> int:
    """What a shell would say; never 0, because an engine that ends unasked has failed."""
    return 128 - returncode if returncode < 0 else returncode or 1


def _shorten(line: str) -> str:
    return _LOG_PREFIX.sub("", line).strip().rstrip(".")[:MAX_MESSAGE_CHARACTERS]
