"""Server-sent events under every split."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tandem_router.apis.completions import STREAM
from tandem_router.sse import EventStream

USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
texts = st.lists(st.text(max_size=12), max_size=6)
separators = st.sampled_from([b"\n\n", b"\r\n\r\n"])


def render(words, separator, *, with_usage):
    values = [{"choices": [{"delta": {"content": word}}], "usage": None} for word in words]
    events = [b": keep-alive", *(b"data: " + json.dumps(value).encode() for value in values)]
    usage = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode()
    tail = [usage] if with_usage else []
    return [event + separator for event in [*events, *tail, b"data: [DONE]"]]


def run(raw, cuts, *, drop):
    stream = EventStream(STREAM, drop_usage=drop)
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    out = b"".join(stream.feed(raw[start:end]) for start, end in pairwise(edges))
    return out + stream.flush(), stream


@given(texts, separators, st.lists(st.integers(0, 5000), max_size=20))
def test_a_stream_whose_client_asked_for_usage_is_passed_on_byte_for_byte(words, separator, cuts):
    raw = b"".join(render(words, separator, with_usage=True))
    out, stream = run(raw, cuts, drop=False)
    assert (out, stream.usage, stream.is_done, stream.has_data) == (raw, USAGE, True, True)


@given(texts, separators, st.lists(st.integers(0, 5000), max_size=20))
def test_only_the_usage_event_is_dropped_and_its_counts_are_kept(words, separator, cuts):
    events = render(words, separator, with_usage=True)
    out, stream = run(b"".join(events), cuts, drop=True)
    assert out == b"".join([*events[:-2], events[-1]])
    assert (stream.usage, stream.is_done) == (USAGE, True)


@given(texts)
def test_every_byte_may_come_alone(words):
    events = render(words, b"\n\n", with_usage=True)
    raw = b"".join(events)
    out, _ = run(raw, range(len(raw)), drop=True)
    assert out == b"".join([*events[:-2], events[-1]])


@given(texts, st.integers(0, 5000))
def test_what_is_passed_on_ends_with_a_whole_event(words, cut):
    raw = b"".join(render(words, b"\n\n", with_usage=False))
    out = EventStream(STREAM, drop_usage=True).feed(raw[: cut % (len(raw) + 1)])
    assert out == b"" or out.endswith(b"\n\n")


@given(st.text(max_size=40))
def test_a_token_that_spells_usage_is_not_taken_for_usage(text):
    word = f'{text}"usage": {{}} data: [DONE]'
    raw = b"".join(render([word], b"\n\n", with_usage=False))
    out, stream = run(raw, [], drop=True)
    assert (out, stream.usage) == (raw, None)


@given(st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=10))
def test_arbitrary_bytes_are_passed_on_unchanged(raw, cuts):
    out, _ = run(raw, cuts, drop=False)
    assert out == raw


def test_an_event_larger_than_the_bound_is_passed_on_in_parts():
    stream = EventStream(STREAM, drop_usage=True)
    passed = sum(len(stream.feed(b"x" * 65_536)) for _ in range(64))
    assert passed > 63 * 65_536 - 2 * 262_144
