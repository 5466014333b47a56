"""What people do with the clients that they have: the same checks against any engine behind the router."""

import json
import subprocess

import anthropic
import openai
import pytest
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

QUESTION = "What does the river say? " * 12
MESSAGES = [{"role": "user", "content": QUESTION}]
PLACE = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
PLACE |= {"required": ["city", "days"], "additionalProperties": False}
LIMIT = 8


def openai_client(url):
    """The official client, as its documentation shows it, with an endpoint of one's own."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


def anthropic_client(url):
    """The official client of the Messages API."""
    return anthropic.Anthropic(base_url=url, api_key="any", max_retries=0)


def check_openai_chat(url):
    client = openai_client(url)
    whole = client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=LIMIT, temperature=0)
    assert whole.usage.completion_tokens == LIMIT
    assert whole.choices[0].finish_reason == "length"
    stream = client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=LIMIT, temperature=0, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.choices[0].message.content
    counted = client.chat.completions.create(
        model="m", messages=MESSAGES, max_tokens=LIMIT, stream=True, stream_options={"include_usage": True}
    )
    assert [chunk.usage.completion_tokens for chunk in counted if chunk.usage] == [LIMIT]


def check_openai_text(url):
    client = openai_client(url)
    whole = client.completions.create(model="m", prompt=QUESTION, max_tokens=LIMIT, temperature=0)
    stream = client.completions.create(model="m", prompt=QUESTION, max_tokens=LIMIT, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text != ""


def check_openai_errors(url):
    client = openai_client(url)
    for refused, kind in (({"model": "nobody"}, openai.NotFoundError), ({"n": "x"}, openai.BadRequestError)):
        with pytest.raises(kind) as caught:
            client.chat.completions.create(model="m", messages=MESSAGES, extra_body=refused)
        assert caught.value.body["message"]
    assert [model.id for model in client.models.list()] == ["m"]
    assert client.models.retrieve("m").id == "m"


def check_openai_structure(url):
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}
    whole = openai_client(url).chat.completions.create(
        model="m", messages=MESSAGES, response_format=form, max_tokens=200, temperature=0
    )
    assert set(json.loads(whole.choices[0].message.content)) == {"city", "days"}


def check_openai_tools(url):
    client = openai_client(url)
    tools = [{"type": "function", "function": {"name": "weather", "description": "Weather", "parameters": PLACE}}]
    asked = {"model": "m", "messages": MESSAGES, "tools": tools, "max_tokens": 200}
    call = client.chat.completions.create(**asked).choices[0]
    assert (call.finish_reason, call.message.tool_calls[0].function.name) == ("tool_calls", "weather")
    arguments = json.loads(call.message.tool_calls[0].function.arguments)
    assert set(arguments) == {"city", "days"}
    parts = [chunk.choices[0].delta.tool_calls for chunk in client.chat.completions.create(**asked, stream=True)]
    streamed = "".join(part[0].function.arguments for part in parts if part)
    assert json.loads(streamed) == arguments
    result = {"role": "tool", "tool_call_id": call.message.tool_calls[0].id, "content": "sunny"}
    after = client.chat.completions.create(**asked | {"messages": [*MESSAGES, call.message, result], "max_tokens": 5})
    assert after.choices[0].message.content


def check_openai_responses(url):
    client = openai_client(url)
    asked = {"model": "m", "input": QUESTION, "instructions": "Be brief.", "max_output_tokens": LIMIT, "store": False}
    whole = client.responses.create(**asked, temperature=0)
    assert (whole.status, whole.usage.output_tokens) == ("incomplete", LIMIT)
    events = list(client.responses.create(**asked, temperature=0, stream=True))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text != ""
    assert events[-1].type in ("response.completed", "response.incomplete")
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="m", input="hi", previous_response_id="resp_1")
    assert caught.value.body["code"] == "unsupported_parameter"


def check_openai_embeddings(url):
    answer = openai_client(url).embeddings.create(model="m", input=["a river", "a lamp"])
    first, second = (one.embedding for one in answer.data)
    assert len(first) == len(second) > 1
    assert first != second


def check_anthropic_messages(url):
    client = anthropic_client(url)
    asked = {"model": "m", "max_tokens": LIMIT, "system": "Be brief.", "messages": MESSAGES}
    whole = client.messages.create(**asked)
    assert (whole.stop_reason, whole.usage.output_tokens) == ("max_tokens", LIMIT)
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream)
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", LIMIT)
    assert client.messages.count_tokens(model="m", messages=MESSAGES).input_tokens > 10
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(**asked | {"model": "nobody"})
    assert caught.value.body["error"]["type"] == "not_found_error"


def check_anthropic_tools(url):
    client = anthropic_client(url)
    tools = [{"name": "weather", "description": "Weather", "input_schema": PLACE}]
    asked = {"model": "m", "max_tokens": 200, "messages": MESSAGES, "tools": tools}
    for choice in ({}, {"tool_choice": {"type": "tool", "name": "weather"}}):
        with client.messages.stream(**asked, **choice) as stream:
            final = stream.get_final_message()
        assert final.stop_reason == "tool_use"
        assert set(final.content[0].input) == {"city", "days"}
        assert client.messages.create(**asked, **choice).content[0].input == final.content[0].input


def check_langchain(url):
    @tool
    def weather(city: str, days: int) -> str:
        """Weather in a city."""
        return f"{city} {days}"

    model = ChatOpenAI(model="m", base_url=f"{url}/v1", api_key="any", max_tokens=200, max_retries=0)
    short = model.bind(max_tokens=LIMIT)
    assert short.invoke(QUESTION).usage_metadata["output_tokens"] == LIMIT
    assert "".join(part.text for part in short.stream(QUESTION))
    call = model.bind_tools([weather]).invoke(QUESTION).tool_calls[0]
    assert (call["name"], set(call["args"])) == ("weather", {"city", "days"})
    schema = {"title": "place", "description": "A place", **PLACE}
    assert set(model.with_structured_output(schema, method="json_schema").invoke(QUESTION)) == {"city", "days"}
    vectors = OpenAIEmbeddings(model="m", base_url=f"{url}/v1", api_key="any", check_embedding_ctx_length=False)
    assert len(vectors.embed_documents(["a", "b"])) == 2


def check_curl(url):
    body = json.dumps({"model": "m", "messages": MESSAGES, "max_tokens": LIMIT, "stream": True})
    command = ["curl", "-sS", "--fail-with-body", "-N", f"{url}/v1/chat/completions"]
    command += ["-H", "Content-Type: application/json", "-d", body]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert text.endswith("data: [DONE]\n\n")
    large = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/v1/completions"]
    large += ["-H", "Content-Type: application/json", "-d", "@-"]
    prompt = json.dumps({"model": "m", "prompt": "word " * 4000, "max_tokens": 2})  # curl waits for 100-continue
    done = subprocess.run(large, input=prompt, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "200"
