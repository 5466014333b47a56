"""Where prefill on the decode worker is cheaper, it comes about, and that worker's own rate is learned on the way."""

import asyncio
from typing import Any

from unit.router.scripted import KV_PARAMS, Bench, Channel, Engine, Seen, ask, running, token_chunk

PROMPT_TOKENS = 600
WORD = "word "


def usage(completion: int) -> dict[str, Any]:
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": completion, "total_tokens": PROMPT_TOKENS + completion}


async def slow_prefill(seen: Seen, channel: Channel) -> None:
    await asyncio.sleep(0.1)
    await channel.json(200, {"choices": [], "usage": usage(1), "kv_transfer_params": KV_PARAMS})


async def decode(seen: Seen, channel: Channel) -> None:
    """Fast at everything, its own prefill too."""
    await channel.begin_stream()
    for _ in range(4):
        await channel.event(token_chunk("a"))
        await asyncio.sleep(0.002)
    await channel.event({"choices": [], "usage": usage(4)})
    await channel.event("[DONE]")
    await channel.end_stream()


async def ask_once(bench: Bench, number: int) -> str:
    """Names of the workers that served a prompt that nobody has seen."""
    content = f"{number} " + WORD * (4 * PROMPT_TOKENS // len(WORD))
    answer = await ask(bench, stream=True, messages=[{"role": "user", "content": content}])
    assert answer.status == 200
    return answer.headers["x-served-by"]


async def test_a_decode_worker_is_tried_when_prefill_is_backed_up_and_preferred_once_it_is_known_to_be_faster(tmp_path):
    engines = [Engine("p0", "prefill", slow_prefill), Engine("d0", "decode", decode)]
    async with running(tmp_path, engines, {"tpotSeconds": 0.1}) as bench:
        assert {await ask_once(bench, number) for number in range(5)} == {"p0,d0"}
        burst = await asyncio.gather(*(ask_once(bench, 100 + number) for number in range(8)))
        assert "d0" in burst
        alone, number = "", 1000
        while alone != "d0" and number < 1200:  # a worker teaches 20 times a second at most, and at first thrice
            number += 10
            await asyncio.gather(*(ask_once(bench, number + one) for one in range(6)))
            alone = await ask_once(bench, number + 6)
        assert alone == "d0"
        assert bench.routes()["cheaper"] > 1
