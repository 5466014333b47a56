"""Bodies: what the engine parses is what the client sent, but for the named keys."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_router.apis.completions import CHAT
from tandem_router.ask import build_prefill_body, build_serving_body, parse_ask, splice
from tandem_router.errors import BadRequestError, RequestError

PATH = CHAT
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
extra_keys = st.text(max_size=8).filter(lambda key: key not in ("model", "stream", "messages", "stream_options"))
bodies = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": values, "stream": st.booleans()},
    optional={"stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()})},
)


@given(bodies, st.sampled_from([None, 2]), st.sampled_from(["", "  ", "\n\t"]))
def test_the_engine_sees_the_clients_fields_plus_ours(fields, indent, space):
    raw = (space + json.dumps(fields, indent=indent)).encode()
    sent = json.loads(build_serving_body(parse_ask(PATH, raw), "m", {"a": [1, "é"]}))
    expected = {**fields, "kv_transfer_params": {"a": [1, "é"]}}
    if fields["stream"]:
        expected["stream_options"] = {**fields.get("stream_options", {}), "include_usage": True}
    assert sent == expected


@given(bodies)
def test_bytes_are_kept_unless_a_key_of_the_client_must_change(fields):
    raw = json.dumps(fields, indent=1).encode()
    ask = parse_ask(PATH, raw)
    if not (fields["stream"] and not ask.wants_usage and "stream_options" in fields):
        assert build_serving_body(ask, "m", {"a": 1}).endswith(raw[1:])


@given(bodies)
def test_the_prefill_leg_has_the_same_prompt_and_one_token(fields):
    sent = json.loads(build_prefill_body(parse_ask(PATH, json.dumps(fields).encode()), "m"))
    assert sent["messages"] == fields["messages"]
    assert (sent["max_tokens"], sent["max_completion_tokens"], sent["stream"]) == (1, 1, False)
    assert "stream_options" not in sent


@given(
    st.dictionaries(st.text(max_size=6), values, max_size=4), st.dictionaries(st.text(max_size=6), values, max_size=3)
)
def test_splicing_is_setting_keys(fields, changes):
    raw = json.dumps(fields).encode()
    assert json.loads(splice(raw, fields, changes)) == {**fields, **changes}


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_a_typed_error(raw):
    with pytest.raises(BadRequestError):
        parse_ask(PATH, raw)


@given(st.dictionaries(st.sampled_from(["model", "n", "stream", "max_tokens", "stream_options", "prompt"]), values))
def test_arbitrary_values_are_read_or_refused_with_a_type(fields):
    refused = None
    try:
        parse_ask(PATH, json.dumps(fields).encode())
    except RequestError as error:
        refused = error
    assert refused is None or (refused.status == 400 and refused.code)
