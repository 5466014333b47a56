"""The first thing a user does, on real vLLM: apply the quickstart, get tokens, lose a worker, get tokens still."""

from __future__ import annotations

import copy

import pytest
import yaml

from demo.asking import ask
from demo.errors import DemoError
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

    seen: list[str] = []
    decode = fleets.pods("quickstart", "decode")[0].metadata.name

    def kill_in_the_middle(text: str) -> None:
        seen.append(text)
        if len(seen) == 8:
            tandem.objects.kill_pod(decode)

    with pytest.raises(DemoError, match="ended with an error"):
        ask(router_url, "tiny-llama", "a long one " + PROMPTS[1], 1000, kill_in_the_middle)
    fleets.wait_ready("quickstart", timeout_s=600)
    assert (
        ask(router_url, "tiny-llama", PROMPTS[1], TOKENS).text
        == ask(router_url, "tiny-llama-single", PROMPTS[1], TOKENS).text
    )


def test_a_model_that_does_not_exist_is_named_and_what_serves_is_untouched(
    tandem: Installation, fleets: Fleets, router_url: str
) -> None:
    """vLLM's own words about the model become the condition; the old worker answers on."""
    single = yaml.safe_load((EXAMPLES / "single.yaml").read_text())
    fleets.apply(single)
    fleets.wait_ready("single", timeout_s=600)
    serving = {pod.metadata.name for pod in fleets.pods("single")}
    bad = copy.deepcopy(single)
    bad["spec"]["model"] |= {"source": "hf://nobody/no-such-model", "servedName": "tiny-llama-single"}
    fleets.apply(bad)
    condition = fleets.wait_condition("single", "DecodeReady", "ModelUnavailable", timeout_s=300)
    assert "no-such-model" in condition["message"]
    assert serving <= {pod.metadata.name for pod in fleets.pods("single")}
    assert ask(router_url, "tiny-llama-single", "still there?", 4).usage["completion_tokens"] == 4
    fleets.apply(single)
    fleets.wait_ready("single", timeout_s=600)
