"""Readers: each format, and what is wrong with a file in one sentence."""

import gzip
import json

import numpy as np
import pytest

from tandem_simulator.errors import TraceError, UsageError
from tandem_simulator.prefix_cache import cached_prefix_tokens
from tandem_simulator.traffic.model import build_trace
from tandem_simulator.traffic.reading import read_trace
from tandem_simulator.traffic.servegen import Span

from .worlds import poisson

WHOLE = Span()


def written(folder, name, text):
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
def test_a_plain_table_is_read_and_sorted(tmp_path, name):
    """Columns may stand in any order."""
    path = written(tmp_path, name, "output_tokens,arrival_s,input_tokens\n5,2.5,100\n7,0.5,200\n")
    trace = read_trace(path, None, 0, WHOLE)
    assert trace.arrival_s.tolist() == [0.5, 2.5]
    assert trace.input_tokens.tolist() == [200, 100]
    assert trace.output_tokens.tolist() == [7, 5]


def test_the_original_azure_columns_are_read(tmp_path):
    """Absolute times with seven digits become seconds from the first."""
    rows = ("2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951690,396,109")
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows)
    trace = read_trace(written(tmp_path, "azure.csv", text), "azure", 0, WHOLE)
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 4.314579], abs=1e-6)


def test_mooncake_keeps_its_prefix_blocks_and_spreads_its_coarse_clock(tmp_path):
    """Times in steps of three seconds are spread over them, by seed."""
    rows = [{"timestamp": at, "input_length": 1024, "output_length": 5, "hash_ids": [1, at]} for at in (0, 0, 3000)]
    path = written(tmp_path, "m.jsonl", "\n".join(json.dumps(row) for row in rows))
    trace = read_trace(path, None, 3, WHOLE)
    assert np.all(trace.arrival_s[:2] < 3.0)
    assert len(set(trace.arrival_s.tolist())) == 3
    assert trace.arrival_s.tolist() == read_trace(path, None, 3, WHOLE).arrival_s.tolist()


def servegen(folder, rates=(10.0, 10.0, 0.0, 10.0)):
    windows = [(600 * place, rate) for place, rate in enumerate(rates)]
    totals = "".join(f"{start},{rate}\n" for start, rate in windows)
    written(folder, "s_rate10min.csv", "window_start_s,rate_rps\n" + totals)
    clients = "".join(f"{w},7,{r / 2},2.0,Gamma\n{w},8,{r / 4},1.5,Weibull\n" for w, r in windows)
    written(folder, "s_top20clients.csv", "window_start_s,client,rate_rps,cv,arrival_family\n" + clients)
    lengths = "0,input_tokens,100,101,0.5\n0,input_tokens,300,301,0.5\n0,output_tokens,10,11,1.0\n"
    written(folder, "s_tokens6h.csv", "window_start_s,field,bin_lo,bin_hi,prob\n" + lengths)
    return folder / "s"


def test_servegen_makes_the_measured_rate_and_lengths(tmp_path):
    """10 rps for the 20 minutes before the recording gap, half of the prompts 100 tokens long."""
    trace = read_trace(servegen(tmp_path), "servegen", 1, WHOLE)
    assert trace.span_s == pytest.approx(1200, abs=5)
    assert len(trace) == pytest.approx(10 * 900 + 5 * 300, rel=0.10)  # the rate falls linearly towards the gap
    assert np.mean(trace.input_tokens == 100) == pytest.approx(0.5, abs=0.05)
    assert set(trace.output_tokens.tolist()) == {10}


def test_servegen_stops_at_the_cap_and_says_so(tmp_path):
    """A week of 200 rps is a hundred million requests."""
    trace = read_trace(servegen(tmp_path), "servegen", 1, Span(max_requests=1000))
    assert trace.truncated
    assert len(trace) == pytest.approx(1000, rel=0.2)


def test_servegen_thins_and_starts_later(tmp_path):
    """--keep and --from-s; a start in a gap moves to its end."""
    thin = read_trace(servegen(tmp_path), "servegen", 1, Span(keep=0.25, duration_s=600.0))
    assert len(thin) == pytest.approx(0.25 * 6000, rel=0.15)
    late = read_trace(servegen(tmp_path), "servegen", 1, Span(from_s=1300.0))
    assert late.span_s == pytest.approx(600, abs=10)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "time,in,out\n1,2,3\n", "needs the columns arrival_s"),
        ("a.csv", "arrival_s,input_tokens,output_tokens\n0,1,x\n", "line 2: output_tokens"),
        ("a.csv", "arrival_s,input_tokens,output_tokens\n0,1\n", "line 2: output_tokens"),
        ("a.csv", "arrival_s,input_tokens,output_tokens\n", "no request"),
        ("a.csv", "arrival_s,input_tokens,output_tokens\n0,-5,3\n", "input_tokens is negative in request 1"),
        ("a.csv", "arrival_s,input_tokens,output_tokens\nnan,5,3\n", "arrival time is not finite"),
        ("a.jsonl", "{oops\n", "line 1: no JSON"),
        ("a.jsonl", '{"timestamp": 1}\n', "line 1: input_length"),
        ("a.csv.gz", None, "cannot be read"),
    ],
)
def test_a_broken_file_is_told_in_one_sentence(tmp_path, name, text, message):
    """File, line and column."""
    path = tmp_path / name
    if text is None:
        path.write_bytes(b"not gzip at all")
    else:
        path.write_text(text)
    with pytest.raises(TraceError, match=message):
        read_trace(path, None, 0, WHOLE)


def test_missing_files_are_told(tmp_path):
    """Also the second of ServeGen's three."""
    with pytest.raises(TraceError, match="no such file"):
        read_trace(tmp_path / "nothing", None, 0, WHOLE)
    prefix = servegen(tmp_path)
    (tmp_path / "s_tokens6h.csv").unlink()
    with pytest.raises(TraceError, match="s_tokens6h"):
        read_trace(prefix, "servegen", 0, WHOLE)


@pytest.mark.parametrize("span", [Span(from_s=-1), Span(duration_s=0), Span(keep=0), Span(keep=1.5)])
def test_an_impossible_span_is_refused(tmp_path, span):
    """Before any file is read."""
    with pytest.raises(UsageError, match="--from-s"):
        read_trace(tmp_path / "x.csv", "csv", 0, span)


def test_superposing_multiplies_traffic_and_not_prefix_hits():
    """Each copy has conversations of its own."""
    one = build_trace(np.array([0.0, 10.0]), np.array([1024, 1025]), np.array([1, 1]), [[5, 6], [5, 6]], "two")
    many = one.superposed(3, seed=1)
    assert len(many) == 6
    assert cached_prefix_tokens(many, None).sum() == 3 * cached_prefix_tokens(one, None).sum() == 3 * 1024


def test_the_prefix_cache_matches_leading_blocks_within_its_size():
    """LRU, flushes, and one token is always computed."""
    blocks = [[1, 2], [1, 3], [9, 2], [1, 2]]
    trace = build_trace(np.arange(4.0), np.full(4, 1024), np.ones(4, dtype=np.int64), blocks, "b")
    assert cached_prefix_tokens(trace, None).tolist() == [0, 512, 0, 1023]
    assert cached_prefix_tokens(trace, 2 * 512).tolist() == [0, 512, 0, 0]
    assert cached_prefix_tokens(trace, None, [2.5]).tolist() == [0, 512, 0, 0]
    assert cached_prefix_tokens(poisson(1, 10), None).sum() == 0
