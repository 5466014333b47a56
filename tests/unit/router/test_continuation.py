"""`routing.continuation: Tokens`: a stream whose worker is lost goes on elsewhere; sent tokens stay as they are."""

import asyncio
import json

import pytest
from unit.router.scripted import Engine, ask, die, exchange, hang, http_post, running, usage_of

WORDS = ("Hel", "lo", " wor", "ld", " and", " more")
PROMPT_IDS = [7, 8, 9]
ON = {"continuation": "Tokens"}


def ids_of(text):
    return [100 + WORDS.index(text)]


def telling(*, dies_after=None, tells_ids=True, name="x", is_chat=True, extra=None):
    """An engine that tells token ids where it is asked to, goes on where its prompt ends, and may die on the way."""

    async def behave(seen, channel):
        body = seen.json
        given = (body.get("kv_transfer_params") or {}).get("prompt_token_ids") or body.get("prompt")
        sent = [one for one in given or [] if isinstance(one, int) and one >= 100]
        await channel.begin_stream()
        opening = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        base = {"id": f"id-{name}", "object": "chunk", "created": 5}
        tells = tells_ids and body.get("return_token_ids")
        prompt = {"prompt_token_ids": [*PROMPT_IDS, *sent]} if tells else {}
        if is_chat:
            await channel.event({**base, "choices": [opening], **prompt})
        limit = body.get("max_tokens", 99)
        for count, word in enumerate(WORDS[len(sent) :], 1):
            if dies_after is not None and count > dies_after:
                await asyncio.sleep(0.02)  # what was written is read before the reset
                channel.reset()
                return
            part = {"delta": {"content": word, **(extra or {})}} if is_chat else {"text": word, **prompt}
            done = count == min(limit, len(WORDS) - len(sent))
            choice = {"index": 0, **part, "finish_reason": "length" if done else None}
            await channel.event({**base, "choices": [choice | ({"token_ids": ids_of(word)} if tells else {})]})
            if done:
                break
        if (body.get("stream_options") or {}).get("include_usage"):
            await channel.event({**base, "choices": [], "usage": usage_of(count)})
        await channel.event("[DONE]")
        await channel.end_stream()

    return behave


def mixed(**behaviours):
    return [Engine(name, "mixed", behave) for name, behave in behaviours.items()]


def texts(answer):
    events = [json.loads(line[6:]) for line in answer.body.decode().split("\n\n") if line.startswith("data: {")]
    choices = [choice for event in events for choice in event.get("choices", ())]
    return events, [choice.get("text") or choice["delta"].get("content") for choice in choices]


async def broken_then_whole(tmp_path, fleet=None, path="/v1/chat/completions", body=None, **first):
    """One request to a fleet whose first worker dies, whichever it is; returns the answer and the two requests."""
    is_chat = "chat" in path
    dying = telling(**{"dies_after": 2, "name": "a", "is_chat": is_chat, **first})
    going_on = telling(name="b", is_chat=is_chat)
    fallen = []

    async def behave(seen, channel):
        fallen.append(seen)
        await (dying if len(fallen) == 1 else going_on)(seen, channel)

    async with running(tmp_path, mixed(w0=behave, w1=behave), fleet or ON) as bench:
        got = await exchange(bench, http_post(body, path))
        await bench.idle()
        return got, fallen, bench.outcomes()


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 5}


async def test_a_chat_goes_on_elsewhere_and_reads_as_one_stream(tmp_path):
    asked = CHAT | {"stream_options": {"include_usage": True}, "min_tokens": 3}
    got, (first, second), outcomes = await broken_then_whole(tmp_path, body=asked)
    events, words = texts(got)
    assert (got.status, got.is_whole, outcomes) == (200, True, {"ok": 1})
    assert words == ["", *WORDS[:5]]  # no word twice, and one opening
    assert {one["id"] for one in events} == {"id-a"}
    assert [choice["finish_reason"] for one in events for choice in one["choices"]][-1] == "length"
    usage = events[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 5, 8)
    assert first.json["return_token_ids"] is True
    assert second.json["kv_transfer_params"]["prompt_token_ids"] == [*PROMPT_IDS, 100, 101]
    assert (second.json["max_tokens"], second.json["min_tokens"]) == (3, 1)
    assert b'token_ids":[' not in got.body


async def test_a_text_completion_goes_on_with_tokens_as_its_prompt(tmp_path):
    body = {"model": "m", "prompt": "hi", "stream": True, "max_tokens": 4}
    got, (_, second), outcomes = await broken_then_whole(tmp_path, path="/v1/completions", body=body)
    _, words = texts(got)
    assert (got.is_whole, words, outcomes) == (True, list(WORDS[:4]), {"ok": 1})
    assert (second.json["prompt"], second.json["max_tokens"]) == ([*PROMPT_IDS, 100, 101], 2)


async def test_a_stream_that_is_not_broken_keeps_its_bytes_but_for_the_token_ids(tmp_path):
    async with running(tmp_path, mixed(w0=telling()), ON) as bench:
        got = await exchange(bench, http_post(CHAT))
    events, words = texts(got)
    assert words == ["", *WORDS[:5]]
    assert events[0]["prompt_token_ids"] is None
    assert events[1]["choices"][0]["token_ids"] is None


async def test_what_is_finished_is_ended_without_another_worker(tmp_path):
    async def dies_at_the_end(seen, channel):
        await channel.begin_stream()
        choice = {"index": 0, "delta": {"role": "assistant", "content": "Hel"}, "token_ids": [100]}
        chunk = {"id": "i", "choices": [choice | {"finish_reason": "stop"}], "prompt_token_ids": PROMPT_IDS}
        await channel.event(chunk)
        await asyncio.sleep(0.02)
        channel.reset()

    async with running(tmp_path, mixed(w0=dies_at_the_end), ON) as bench:
        got = await exchange(bench, http_post(CHAT | {"stream_options": {"include_usage": True}}))
        assert (got.is_whole, bench.outcomes()) == (True, {"ok": 1})
    assert json.loads(got.body.split(b"\n\n")[1][6:])["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 1,
        "total_tokens": 4,
    }
    assert got.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"stop": ["x"]},
        {"logprobs": True},
        {"seed": 3},
        {"n": 2},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    ],
)
async def test_what_depends_on_more_than_the_tokens_before_it_ends_with_a_typed_error(tmp_path, field):
    got, seen, outcomes = await broken_then_whole(tmp_path, body=CHAT | field)
    assert (got.is_whole, len(seen), outcomes) == (False, 1, {"broken": 1})
    assert "return_token_ids" not in seen[0].json
    assert json.loads(got.body.split(b"\n\n")[-2][6:])["error"]["code"] == "stream_broken"


@pytest.mark.parametrize("first", [{"tells_ids": False}, {"extra": {"reasoning": "hm"}}])
async def test_an_answer_of_which_the_tokens_are_not_all_known_is_not_gone_on_with(tmp_path, first):
    got, seen, outcomes = await broken_then_whole(tmp_path, body=CHAT, **first)
    assert (got.is_whole, len(seen), outcomes) == (False, 1, {"broken": 1})


async def test_without_the_field_a_broken_stream_is_not_gone_on_with(tmp_path):
    got, seen, outcomes = await broken_then_whole(tmp_path, {"continuation": "Off"}, body=CHAT)
    assert (got.is_whole, len(seen), outcomes) == (False, 1, {"broken": 1})


async def test_when_nobody_can_go_on_the_stream_ends_with_a_typed_error(tmp_path):
    calls = []

    async def behave(seen, channel):
        calls.append(seen)
        await (telling(dies_after=2) if len(calls) == 1 else die)(seen, channel)

    async with running(tmp_path, mixed(w0=behave, w1=behave), ON) as bench:
        got = await exchange(bench, http_post(CHAT))
        assert (got.status, got.is_whole, bench.outcomes()) == (200, False, {"broken": 1})
        assert b'"code":"stream_broken"' in got.body
        bench.assert_idle()


async def test_the_deadline_holds_while_another_worker_goes_on(tmp_path):
    calls = []

    async def behave(seen, channel):
        calls.append(seen)
        await (telling(dies_after=2) if len(calls) == 1 else hang)(seen, channel)

    async with running(tmp_path, mixed(w0=behave, w1=behave), ON) as bench:
        got = await ask(bench, "X-Request-Timeout-Ms: 400\r\n", stream=True)
        assert b"deadline_exceeded" in got.body
        assert (got.is_whole, bench.outcomes()) == (False, {"deadline": 1})
