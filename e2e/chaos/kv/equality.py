"""Without a fault: is the output right, and would we see it if it were not?"""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from integration.kv.vllm_engine import PROMPT_LENGTHS, Engine, complete_disaggregated, text_of

from chaos.kv.stage import Outcome, Question, Stage

_CLIENTS = 32
_SPLIT_LENGTHS = (5, 33, 100, 500, 1200)


def serve_prompts_of_many_lengths(stage: Stage) -> Outcome:
    """Twelve prompts, every token of KV from the prefill engine."""
    return _compare(stage, [stage.make_prompt(length) for length in PROMPT_LENGTHS], clients=1)


def serve_many_at_once(stage: Stage) -> Outcome:
    """Thirty-two clients, eight places in each engine."""
    return _compare(stage, [stage.make_prompt(stage.rng.randrange(40, 300)) for _ in range(_CLIENTS)], _CLIENTS)


def split_over_ranks(stage: Stage) -> Outcome:
    """Tensor parallelism of two on both sides, then on one side only: each rank takes its slice of the heads.

    Nine engine processes starve one another on few cores; a pair whose peer fell silent is asked once more.
    """
    two_prefill, two_decode = stage.start("prefill", tp_size=2), stage.start("decode", tp_size=2)
    for engine in (two_prefill, two_decode):
        engine.wait_ready()
    questions = [stage.make_question(length) for length in _SPLIT_LENGTHS]
    pairs = {"2-2": (two_prefill, two_decode), "2-1": (two_prefill, stage.decode), "1-2": (stage.prefill, two_decode)}
    started_s, notes, misses, recomputed = time.monotonic(), [], [], 0
    for name, (prefiller, decoder) in pairs.items():
        for salt in (name, f"{name} again"):
            asked = _ask_pair(prefiller, decoder, questions, salt)
            recomputed += asked.recomputed_tokens
            notes.append(asked.summary)
            if not asked.misses or not asked.is_equal:
                break
        misses += asked.misses
    for engine in (two_prefill, two_decode):
        engine.stop()
    return Outcome("; ".join(notes), time.monotonic() - started_s, recomputed, not misses, misses)


def _ask_pair(prefiller: Engine, decoder: Engine, questions: list[Question], salt: str) -> Outcome:
    """`salt`: or the decode engine's own prefix cache would answer."""
    before = decoder.stats()
    texts = [text_of(complete_disaggregated(prefiller, decoder, each.prompt, cache_salt=salt)) for each in questions]
    after = decoder.stats()
    equal = sum(text == each.truth for text, each in zip(texts, questions, strict=True))
    remote = after["remote_tokens"] - before["remote_tokens"]
    reasons = sorted(Counter(after["failures"]) - Counter(before["failures"]))
    summary = ", ".join([f"{salt}: {equal} of {len(questions)} equal, {remote} tokens from remote", *reasons])
    is_whole = equal == len(questions) and remote == sum(len(each.prompt) for each in questions)
    misses = [] if is_whole else [f"{salt}: not equal, or not from remote"]
    recomputed = after["recomputed_tokens"] - before["recomputed_tokens"]
    return Outcome(summary, 0.0, recomputed, equal == len(questions), misses)


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
