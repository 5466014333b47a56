"""Many requests one after another: does anything grow?"""

import os
import time
from pathlib import Path

from integration.kv.vllm_engine import Engine, complete_disaggregated, text_of

from chaos.kv.stage import Outcome, Stage

_MAX_GROWTH_MIB = 24.0
_MAX_MORE_FILES = 4
# A few lengths only: vLLM on CPU keeps compiled kernels per shape, which would look like a leak
_LENGTHS = (40, 100, 200, 300, 400)
_LONG_TOKENS, _PROMPTS_THAT_FILL_THE_CACHE = 1500, 16  # 64 MiB hold 16,384 tokens


def soak(stage: Stage, requests: int) -> Outcome:
    """Once allocators are warm and every page of the KV caches has been touched, memory and open files must stay.

    The plain engine is the control: what grows there too is not ours.
    """
    warm = max(1, requests // 4)
    started_s = time.monotonic()
    for _ in range(_PROMPTS_THAT_FILL_THE_CACHE):
        complete_disaggregated(stage.prefill, stage.decode, stage.make_prompt(_LONG_TOKENS), max_tokens=1)
    _serve(stage, warm)
    engines = {"prefill": stage.prefill, "decode": stage.decode, "plain": stage.plain}
    before = {name: _footprint(engine) for name, engine in engines.items()}
    different = _serve(stage, requests - warm)
    misses = [f"{different} outputs differ"] if different else []
    notes = []
    for name, engine in engines.items():
        open_files, resident_mib = _footprint(engine)
        files, mib = open_files - before[name][0], resident_mib - before[name][1]
        notes.append(f"{name} {resident_mib:.0f} MiB ({mib:+.1f}), {open_files:.0f} files ({files:+.0f})")
        if (mib > _MAX_GROWTH_MIB and name != "plain") or files > _MAX_MORE_FILES:
            misses.append(f"{name} grew: {mib:.0f} MiB, {files:.0f} files")
    return Outcome("; ".join(notes), time.monotonic() - started_s, 0, different == 0, misses)


def _serve(stage: Stage, requests: int) -> int:
    """How many outputs differ from those of one engine alone."""
    different = 0
    for _ in range(requests):
        prompt = stage.make_prompt(stage.rng.choice(_LENGTHS))
        together = text_of(complete_disaggregated(stage.prefill, stage.decode, prompt, max_tokens=8))
        different += together != text_of(stage.plain.complete(prompt, max_tokens=8))
    return different


def _footprint(engine: Engine) -> tuple[float, float]:
    """(open files, resident MiB) of all processes of an engine's session."""
    files, pages = 0, 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == engine.process.pid:
                files += len(list((folder / "fd").iterdir()))
                pages += int((folder / "statm").read_text().split()[1])
        except (ProcessLookupError, FileNotFoundError):
            continue  # it ended while we looked
    return files, pages * os.sysconf("SC_PAGE_SIZE") / 2**20
