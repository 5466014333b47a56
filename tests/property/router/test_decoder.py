"""The response decoder under every split, every size, and arbitrary bytes."""

import contextlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tandem_router.http1.decoder import FramingError, ResponseDecoder


class Sink:
    """Records what the decoder says."""

    def __init__(self):
        self.status = None
        self.body = b""
        self.ends = 0

    def on_head(self, head):
        assert self.status is None
        self.status = head.status

    def on_body(self, data):
        assert data
        assert self.ends == 0
        self.body += data

    def on_end(self):
        self.ends += 1


def feed(raw, cuts, *, head_request=False):
    sink = Sink()
    decoder = ResponseDecoder(sink, head_request=head_request)
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    for start, end in pairwise(edges):
        if start < end:
            decoder.feed(raw[start:end])
    return sink, decoder


def chunked(parts, extension):
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nX-Trailer: 1\r\n\r\n"


cuts = st.lists(st.integers(0, 10_000), max_size=30)
extensions = st.sampled_from([b"", b";a=b", b" ;x", b'; q="1"'])


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=10), cuts, extensions)
def test_a_chunked_body_arrives_whole_however_it_is_split(parts, where, extension):
    sink, decoder = feed(chunked(parts, extension), where)
    assert (sink.status, sink.body, sink.ends, decoder.is_done) == (200, b"".join(parts), 1, True)


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=4), extensions)
def test_a_chunked_body_arrives_whole_byte_by_byte(parts, extension):
    raw = chunked(parts, extension)
    sink, _ = feed(raw, range(len(raw)))
    assert (sink.body, sink.ends) == (b"".join(parts), 1)


@given(st.binary(max_size=200), cuts)
def test_a_body_of_known_length_arrives_whole(body, where):
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    sink, decoder = feed(raw, where)
    assert (sink.body, sink.ends, decoder.keep_alive) == (body, 1, True)


@given(st.binary(max_size=200), cuts)
def test_a_body_that_ends_with_the_connection_arrives_whole(body, where):
    sink, decoder = feed(b"HTTP/1.1 200 OK\r\n\r\n" + body, where)
    assert sink.ends == 0
    decoder.end_of_stream()
    assert (sink.body, sink.ends, decoder.keep_alive) == (body, 1, False)


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5), st.integers(1, 400))
def test_a_truncated_body_is_never_a_clean_end(parts, lost):
    raw = chunked(parts, b"")
    sink, decoder = feed(raw[: max(0, len(raw) - lost)], [])
    with contextlib.suppress(FramingError):
        decoder.end_of_stream()
        raise AssertionError("a truncated response ended cleanly")
    assert sink.ends == 0


@given(st.binary(max_size=300), cuts)
def test_arbitrary_bytes_give_a_typed_error_or_nothing(raw, where):
    with contextlib.suppress(FramingError):
        sink, _ = feed(raw, where)
        assert sink.ends <= 1


@given(st.binary(max_size=100), cuts)
def test_arbitrary_chunk_bytes_never_end_twice(tail, where):
    with contextlib.suppress(FramingError):
        sink, _ = feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + tail, where)
        assert sink.ends <= 1


@given(
    st.sampled_from(
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
            b"HTTP/1.1 2x0 OK\r\n\r\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc",
        ]
    ),
    cuts,
)
def test_ambiguous_framing_is_refused(raw, where):
    with contextlib.suppress(FramingError):
        feed(raw, where)
        raise AssertionError("ambiguous framing was accepted")
