"""Without a fault: is the output right, and would we see it if it were not?"""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from integration.kv.vllm_engine import PROMPT_LENGTHS, complete_disaggregated, text_of

from chaos.kv.stage import Outcome, Stage

_CLIENTS = 32
_SPLIT_LENGTHS = (5, 33, 100, 500, 1200)


def serve_prompts_of_many_lengths(stage: Stage) -> Outcome:
    """Twelve prompts, every token of KV from the prefill engine."""
    return _compare(stage, [stage.make_prompt(length) for length in PROMPT_LENGTHS], clients=1)


def serve_many_at_once(stage: Stage) -> Outcome:
    """Thirty-two clients, eight places in each engine."""
    return _compare(stage, [stage.make_prompt(stage.rng.randrange(40, 300)) for _ in range(_CLIENTS)], _CLIENTS)


def split_over_ranks(stage: Stage) -> Outcome:
    """Tensor parallelism of two on both sides, then on one side only: each rank takes its slice of the heads."""
    two_prefill, two_decode = stage.start("prefill", tp_size=2), stage.start("decode", tp_size=2)
    for engine in (two_prefill, two_decode):
        engine.wait_ready()
    questions = [stage.make_question(length) for length in _SPLIT_LENGTHS]
    pairs = {"2-2": (two_prefill, two_decode), "2-1": (two_prefill, stage.decode), "1-2": (stage.prefill, two_decode)}
    started_s, notes, misses, recomputed = time.monotonic(), [], [], 0
    for name, (prefiller, decoder) in pairs.items():
        before = decoder.stats()
        salted = {"cache_salt": name}  # or the decode engine's own prefix cache would answer
        texts = [text_of(complete_disaggregated(prefiller, decoder, each.prompt, **salted)) for each in questions]
        equal = sum(text == each.truth for text, each in zip(texts, questions, strict=True))
        remote = decoder.stats()["remote_tokens"] - before["remote_tokens"]
        recomputed += decoder.stats()["recomputed_tokens"] - before["recomputed_tokens"]
        reasons = sorted(Counter(decoder.stats()["failures"]) - Counter(before["failures"]))
        notes.append(", ".join([f"{name}: {equal} of {len(questions)} equal, {remote} tokens from remote", *reasons]))
        if equal < len(questions) or remote != sum(_SPLIT_LENGTHS):
            misses.append(f"{name}: not equal, or not from remote")
    for engine in (two_prefill, two_decode):
        engine.stop()
    return Outcome("; ".join(notes), time.monotonic() - started_s, recomputed, not misses, misses)


def destroy_bytes(stage: Stage) -> Outcome:
    """The negative control: were outputs still equal, equality would prove nothing."""
    assert stage.corrupting is not None
    prompts = [stage.make_prompt(length) for length in PROMPT_LENGTHS]
    alone = [text_of(stage.plain.complete(prompt)) for prompt in prompts]
    started_s = time.monotonic()
    texts = [text_of(complete_disaggregated(stage.prefill, stage.corrupting, prompt)) for prompt in prompts]
    equal = sum(left == right for left, right in zip(alone, texts, strict=True))
    misses = [f"{equal} of {len(prompts)} outputs are equal all the same"] if equal > 1 else []
    summary = f"{len(prompts) - equal} of {len(prompts)} outputs changed"
    return Outcome(summary, time.monotonic() - started_s, 0, equal > 1, misses)


def _compare(stage: Stage, prompts: list[list[int]], clients: int) -> Outcome:
    alone = [text_of(stage.plain.complete(prompt)) for prompt in prompts]
    before = stage.decode.stats()
    started_s = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        answers = pool.map(lambda prompt: complete_disaggregated(stage.prefill, stage.decode, prompt), prompts)
        texts = list(map(text_of, answers))
    took_s = time.monotonic() - started_s
    after = stage.decode.stats()
    equal = sum(left == right for left, right in zip(alone, texts, strict=True))
    remote = after["remote_tokens"] - before["remote_tokens"]
    recomputed = after["recomputed_tokens"] - before["recomputed_tokens"]
    misses = [] if equal == len(prompts) else [f"{len(prompts) - equal} outputs differ"]
    if remote != sum(map(len, prompts)):
        misses.append(f"{remote} of {sum(map(len, prompts))} prompt tokens came from remote")
    reasons = Counter(after["failures"]) - Counter(before["failures"])
    summary = ", ".join([f"{equal} of {len(prompts)} equal, {remote} tokens from remote", *sorted(reasons)])
    return Outcome(summary, took_s, recomputed, equal == len(prompts), misses)
