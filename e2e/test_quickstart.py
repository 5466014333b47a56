"""The first thing a user does, on real vLLM: apply the quickstart, get tokens, lose a worker, get tokens still."""

from __future__ import annotations

import pytest
import yaml

from demo.asking import ask
from demo.installation import EXAMPLES, Installation
from demo.proof import difference, fetch_counters
from fleets import Fleets

PROMPTS = ("A short one", "The cache moves from one worker to the other. " * 30, "KV " * 300)
TOKENS = 32

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def test_tokens_come_from_moved_kv_and_survive_the_prefill_worker(
    tandem: Installation, fleets: Fleets, router_url: str
) -> None:
    """Equal to a single instance with KV that moved; and an answer right after the prefill worker was killed."""
    for example in ("quickstart.yaml", "single.yaml"):
        fleets.apply(yaml.safe_load((EXAMPLES / example).read_text()))
    for name in ("quickstart", "single"):
        fleets.wait_ready(name, timeout_s=600)
    before = fetch_counters(tandem.objects, tandem.access, "quickstart", "decode")
    for prompt in PROMPTS:
        answers = [ask(router_url, model, prompt, TOKENS) for model in ("tiny-llama", "tiny-llama-single")]
        assert answers[0].text == answers[1].text
        assert answers[0].usage["completion_tokens"] == TOKENS
    moved = difference(fetch_counters(tandem.objects, tandem.access, "quickstart", "decode"), before)
    assert moved.transfers == len(PROMPTS)
    assert moved.bytes_received > 0
    assert moved.recomputed_tokens == 0
    fleets.wait_condition("quickstart", "DisaggregationEffective", "RemotePrefillSeen")

    tandem.objects.kill_pod(fleets.pods("quickstart", "prefill")[0].metadata.name)
    during = ask(router_url, "tiny-llama", "during " + PROMPTS[1], TOKENS)
    assert during.usage["completion_tokens"] == TOKENS
    fleets.wait_ready("quickstart", timeout_s=600)
