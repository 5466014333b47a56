"""Traces: the client's context goes on to both legs, and a collector gets spans with OpenTelemetry's names."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv._incubating.attributes import error_attributes, gen_ai_attributes, server_attributes
from unit.router.scripted import Engine, ask, die, die_mid_stream, pair, running

from tandem_router.token_counts import TokenCounts
from tandem_router.tracing import spans
from tandem_router.tracing.context import TraceContext, parse_traceparent
from tandem_router.tracing.export import MAX_WAITING, SpanQueue

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE_ID, PARENT_ID = bytes.fromhex(PARENT[3:35]), bytes.fromhex(PARENT[36:52])


class Collector:
    """An OTLP/HTTP collector on loopback."""

    def __init__(self):
        self.spans = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
                for resource in body.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    async def received(self, count):
        """Wait for spans; returns them by name."""
        async with asyncio.timeout(10):
            while len(self.spans) < count:  # noqa: ASYNC110 - another thread's list
                await asyncio.sleep(0.02)
        return {span.name: span for span in self.spans}


@pytest.fixture
def collector(monkeypatch):
    monkeypatch.setattr("tandem_router.tracing.export.INTERVAL_S", 0.05)
    started = Collector()
    yield started
    started.stop()


def attributes(span):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


async def test_both_legs_are_children_of_the_request_in_the_clients_trace(tmp_path, collector):
    headers = f"Traceparent: {PARENT}\r\nTracestate: a=b\r\nBaggage: k=v\r\n"
    async with running(tmp_path, pair(), otlp_endpoint=collector.url, trace_share=0.0) as bench:
        assert (await ask(bench, headers=headers, stream=True)).is_whole
        found = await collector.received(3)
        root, prefill, decode = found["chat m"], found["prefill"], found["decode"]
        assert {span.trace_id for span in found.values()} == {TRACE_ID}
        assert root.parent_span_id == PARENT_ID
        assert {prefill.parent_span_id, decode.parent_span_id} == {root.span_id}
        for name, span in (("p0", prefill), ("d0", decode)):
            sent = bench[name].seen[0].headers
            assert sent["traceparent"] == f"00-{TRACE_ID.hex()}-{span.span_id.hex()}-01"
            assert (sent["tracestate"], sent["baggage"]) == ("a=b", "k=v")
            assert attributes(span)["tandem.worker"] == name
            assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert prefill.end_time_unix_nano <= decode.start_time_unix_nano
        said = attributes(root)
        assert (said["gen_ai.operation.name"], said["gen_ai.request.model"]) == ("chat", "m")
        counts = [said[f"gen_ai.usage.{kind}"] for kind in ("input_tokens", "output_tokens")]
        assert counts == [11, 4]
        assert said["tandem.route.reason"] == "remote"
        assert "error.type" not in said


@pytest.mark.parametrize(("header", "share", "count"), [("", 1.0, 3), ("", 0.0, 0), (PARENT[:-1] + "0", 1.0, 0)])
async def test_only_sampled_requests_are_recorded(tmp_path, collector, header, share, count):
    headers = f"Traceparent: {header}\r\n" if header else ""
    async with running(tmp_path, pair(), otlp_endpoint=collector.url, trace_share=share) as bench:
        await ask(bench, headers=headers)
        sent = bench["d0"].seen[0].headers.get("traceparent", "")
    assert len(collector.spans) == count  # closing the router sends what is left
    assert sent == header if not count else parse_traceparent(sent.encode()).is_sampled


async def test_without_a_collector_the_clients_context_passes_unchanged(tmp_path):
    async with running(tmp_path, pair()) as bench:
        await ask(bench, headers=f"Traceparent: {PARENT}\r\n")
        assert bench["p0"].seen[0].headers["traceparent"] == PARENT
        assert bench.router.spans is None


async def test_failures_show_in_the_spans_of_the_leg_and_of_the_request(tmp_path, collector):
    engines = [Engine("p0", "prefill", die), Engine("d0", "decode", die_mid_stream)]
    async with running(tmp_path, engines, otlp_endpoint=collector.url, trace_share=1.0) as bench:
        await ask(bench, stream=True)
        found = await collector.received(3)
    assert attributes(found["prefill"])["error.type"] == "leg_failed"
    assert attributes(found["chat m"])["error.type"] == "broken"
    assert found["chat m"].status.code == 2


async def test_a_collector_that_is_away_costs_spans_and_no_request(tmp_path, monkeypatch):
    monkeypatch.setattr("tandem_router.tracing.export.STOP_S", 0.5)
    url = "http://127.0.0.1:9/v1/traces"
    async with running(tmp_path, pair(), otlp_endpoint=url, trace_share=1.0) as bench:
        for _ in range(3):
            assert (await ask(bench)).status == 200


class Refusing:
    """An exporter that never gets rid of anything."""

    def export(self, batch):
        raise AssertionError("never started")


def test_spans_that_nobody_takes_are_dropped_and_counted():
    queue = SpanQueue(Refusing(), "r")
    trace = spans.Tracer(queue.put, 1.0).start(None, "chat m", 1.0)
    for _ in range(MAX_WAITING + 5):
        trace.finish("ok", TokenCounts(), 2.0)
    assert (len(queue._waiting), queue.dropped) == (MAX_WAITING, 5)


def test_attribute_names_are_those_of_the_conventions():
    for name in ("OPERATION_NAME", "PROVIDER_NAME", "REQUEST_MODEL", "REQUEST_STREAM"):
        assert getattr(gen_ai_attributes, f"GEN_AI_{name}") in vars(spans).values()
    assert spans.INPUT_TOKENS == gen_ai_attributes.GEN_AI_USAGE_INPUT_TOKENS
    assert spans.OUTPUT_TOKENS == gen_ai_attributes.GEN_AI_USAGE_OUTPUT_TOKENS
    assert spans.CACHED_TOKENS == gen_ai_attributes.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS
    assert spans.FIRST_CHUNK_S == gen_ai_attributes.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK
    assert spans.ERROR_TYPE == error_attributes.ERROR_TYPE
    assert spans.SERVER_ADDRESS == server_attributes.SERVER_ADDRESS


contexts = st.builds(TraceContext, st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.sampled_from([0, 1]))


@given(contexts)
def test_what_we_write_is_what_others_read(context):
    assert parse_traceparent(context.to_header()) == context


@given(st.binary(max_size=70) | st.from_regex(rb"[0-9a-f-]{40,60}", fullmatch=True))
def test_anything_else_is_no_context(value):
    found = parse_traceparent(value)
    assert found is None or value.startswith(found.to_header()[3:-2], 3)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01",
        b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        PARENT.upper().encode(),
        PARENT.encode() + b"-extra",
    ],
)
def test_contexts_that_the_standard_calls_invalid_are_ignored(value):
    assert parse_traceparent(value) is None
