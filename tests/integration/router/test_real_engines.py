"""Official clients, and an answer that goes on elsewhere, over real vLLM workers behind the router as it is run."""

import http.client
import json
import re

import openai
import pytest
from integration.router import clients
from integration.router.fleet_site import RouterProcess, Workers
from integration.worker.conftest import worker_python  # noqa: F401 - a fixture

from tandem_api.worker import EngineConfig

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(900)]

ENGINE = EngineConfig(type="vllm", max_num_seqs=8)
START_S = 400.0
CHECKS = (
    clients.check_openai_chat,
    clients.check_openai_text,
    clients.check_openai_errors,
    clients.check_openai_responses,
    clients.check_anthropic_messages,
    clients.check_curl,
)
FINITE = {"type": "object", "properties": {"city": {"enum": ["Rome"]}, "days": {"enum": [3]}}}
FITTING = re.compile(r'\{\s*("city"\s*(:\s*("Rome"\s*(,\s*("days".*)?)?)?)?)?$', re.DOTALL)
FINITE |= {"required": ["city", "days"], "additionalProperties": False}


@pytest.fixture(scope="module")
def site(tmp_path_factory, worker_python):  # noqa: F811
    """One prefill and two decode workers of real vLLM."""
    workers = Workers(tmp_path_factory.mktemp("real"))
    for name, role in (("p0", "prefill"), ("d0", "decode"), ("d1", "decode")):
        workers.start(name, role, engine=ENGINE, python=worker_python)
    file = workers.write_fleet(continuation="Tokens")
    router = RouterProcess(workers.folder, file, "--min-remote-tokens", "1")
    try:
        router.wait_for_workers(3, START_S)
        yield workers, router
    finally:
        router.stop()
        workers.stop()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_clients_work_unchanged(site, check):
    check(site[1].url)


def test_structured_output_survives_the_hand_over(site):
    client = clients.openai_client(site[1].url)
    asked = {"model": "m", "messages": clients.MESSAGES, "max_tokens": 60}
    choice = {"structured_outputs": {"choice": ["Rome", "Oslo"]}}
    assert client.chat.completions.create(**asked, extra_body=choice).choices[0].message.content in ("Rome", "Oslo")
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": FINITE}}
    text = client.chat.completions.create(**asked, response_format=form).choices[0].message.content
    assert FITTING.match(text), text  # a model of random weights never tires of white space


def test_requests_were_split(site):
    assert 'reason="remote"' in site[1].read_metrics()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_answer_goes_on_elsewhere_with_the_very_tokens_that_were_left(site, path):
    workers, router = site
    ask = {"messages": clients.MESSAGES} if "chat" in path else {"prompt": clients.QUESTION}
    body = {"model": "m", "max_tokens": 100, "temperature": 0, "ignore_eos": True, "stream": True, **ask}
    undisturbed, _ = read_stream(router, path, body, lambda _: None)
    broken, served_by = read_stream(router, path, body, lambda name: workers.kill(name.split(",")[-1]))
    router.wait_for_workers(2)
    workers.restart(served_by.split(",")[-1])
    router.wait_for_workers(3, START_S)
    assert 'leg="continuation"' in router.read_metrics()
    assert broken == undisturbed


def read_stream(router, path, body, on_tenth):
    """The text of one streamed answer; `on_tenth` is called with the workers' names after its tenth event."""
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=300)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    texts, served_by, is_done = [], answer.getheader("x-served-by"), False
    for line in answer:
        if line == b"data: [DONE]\n":
            is_done = True
        elif line.startswith(b"data: "):
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            texts += [one.get("text") or one.get("delta", {}).get("content") or "" for one in chunk["choices"]]
            if len(texts) == 10:
                on_tenth(served_by)
    assert is_done
    return "".join(texts), served_by


def test_openai_embeddings_of_a_model_that_makes_none_are_refused_by_the_engine_itself(site):
    with pytest.raises(openai.APIStatusError) as caught:
        clients.openai_client(site[1].url).embeddings.create(model="m", input="a")
    assert caught.value.status_code in (400, 404, 405, 501)
