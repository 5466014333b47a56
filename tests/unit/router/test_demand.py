"""What the autoscaler reads: exact sums, fair samples, pages, bounded memory."""

import asyncio
import json
from itertools import count

import pytest
from unit.router.scripted import Engine, chat, connected_to, exchange, http_post, read_answer, running

from tandem_api.router import DEMAND_KEPT_S, DEMAND_PAGE_S, DEMAND_RECORDS_PER_S, DemandAnswer
from tandem_core.keys import derive_internal_token, encode_key
from tandem_router import jsontext
from tandem_router.demand.account import DemandAccount
from tandem_router.demand.archive import ClosedSecond, DemandArchive
from tandem_router.demand.recorder import DemandRecorder, FleetLevels
from tandem_router.demand.sample import Reservoir, unpack
from tandem_router.errand import Standing
from tandem_router.token_counts import TokenCounts

START_S = 1_700_000_000.0
LEVELS = FleetLevels("ns", "f", "u", {"queued": 0})
KEY = bytes(range(32))


class Clock:
    """Wall time that the test moves; the loop's clock runs with it, from zero."""

    def __init__(self):
        self.now_s = START_S

    def wall(self):
        return self.now_s

    def loop(self):
        return self.now_s - START_S


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def recorder(clock):
    draws = count()
    return DemandRecorder(clock.loop, clock.wall, lambda: next(draws) * 0.37 % 1.0)


def visit(recorder, clock, *, tokens=100, cached=20, standing=None, ends=True):
    account = DemandAccount(recorder.book("u"), recorder, clock.loop(), standing or Standing())
    account.arrive(tokens - cached, cached)
    if ends:
        account.close(clock.loop(), TokenCounts(), is_failed=False, ttft_s=0.1, tpot_s=None)
    return account


def read(recorder, cursor=0, levels=(LEVELS,), only=None):
    answer = recorder.answer("r", cursor, levels, only)
    return DemandAnswer.model_validate_json(jsontext.dumps(answer))


def advance(recorder, clock, seconds):
    clock.now_s += seconds
    recorder.tick(["u"])


def test_a_second_is_told_when_it_is_over_and_sums_are_exact(recorder, clock):
    for _ in range(3):
        visit(recorder, clock)
    assert read(recorder).fleets == ()
    advance(recorder, clock, 1.0)
    answer = read(recorder)
    assert (answer.covers_from, answer.cursor) == (int(START_S), int(START_S) + 1)
    (fleet,) = answer.fleets
    (one,) = fleet.bins
    assert (one.second, one.arrivals, one.finished, one.failed) == (int(START_S), 3, 3, 0)
    assert (one.new_tokens, one.prompt_tokens, one.square_tokens) == (240, 300, 3 * 80 * (80 + 40))
    assert fleet.arrivals[0][:3] == (START_S, 80, 20)
    assert fleet.endings[0].ttft_s == pytest.approx(0.1)


def test_a_sample_stands_for_all_and_the_sums_stay_exact(recorder, clock):
    for number in range(400):
        visit(recorder, clock, tokens=100 + number)
    advance(recorder, clock, 1.0)
    (fleet,) = read(recorder).fleets
    assert fleet.bins[0].arrivals == 400
    assert len(fleet.arrivals) == len(fleet.endings) == DEMAND_RECORDS_PER_S
    assert sum(record.weight for record in fleet.arrivals) == pytest.approx(400)
    assert max(record.new_tokens for record in fleet.arrivals) > 300, "later ones are sampled too"


def test_what_is_held_is_integrated_with_the_tokens_that_come(recorder, clock):
    account = visit(recorder, clock, ends=False)
    account.hold(clock.loop())
    clock.now_s += 0.5
    for _ in range(10):
        account.produce()
    clock.now_s += 0.25
    account.let_go(clock.loop())
    account.produce()  # after it was let go nothing is held
    clock.now_s += 0.25
    recorder.tick(["u"])
    (one,) = read(recorder).fleets[0].bins
    assert one.held_s == pytest.approx(0.75)
    book = recorder.book("u")
    assert (book.held, book.held_tokens) == (0, 0)
    account.close(clock.loop(), TokenCounts(), is_failed=True, ttft_s=None, tpot_s=None)
    account.close(clock.loop(), TokenCounts(), is_failed=True, ttft_s=None, tpot_s=None)
    advance(recorder, clock, 1.0)
    assert [one.failed for one in read(recorder).fleets[0].bins] == [0, 1]


def test_a_cursor_goes_on_where_it_was_and_one_from_elsewhere_is_brought_back(recorder, clock):
    for _ in range(5):
        visit(recorder, clock)
        advance(recorder, clock, 1.0)
    first = read(recorder)
    assert len(first.fleets[0].bins) == 5
    assert read(recorder, first.cursor).fleets == ()
    visit(recorder, clock)
    advance(recorder, clock, 1.0)
    assert len(read(recorder, first.cursor).fleets[0].bins) == 1
    future = read(recorder, first.cursor + 1000)
    assert (future.covers_from, future.cursor) == (int(START_S) + 6, int(START_S) + 6)
    assert read(recorder, -5).covers_from == int(START_S)


def test_a_new_reader_fetches_an_hour_in_pages(recorder, clock):
    for _ in range(700):
        visit(recorder, clock)
        advance(recorder, clock, 1.0)
    cursor, bins = 0, 0
    for _ in range(10):
        page = read(recorder, cursor)
        assert page.cursor - page.covers_from <= DEMAND_PAGE_S
        bins += sum(len(fleet.bins) for fleet in page.fleets)
        if page.cursor == cursor:
            break
        cursor = page.cursor
    assert bins == 700


def test_what_is_older_than_an_hour_is_forgotten(recorder, clock):
    visit(recorder, clock)
    advance(recorder, clock, 1.0)
    advance(recorder, clock, DEMAND_KEPT_S + 10)
    assert read(recorder).covers_from == int(START_S) + 11
    assert read(recorder).fleets == ()


def test_memory_is_bounded_and_the_oldest_whole_seconds_go_first():
    archive = DemandArchive(0, max_bytes=100_000)
    for second in range(200):
        archive.close(second, [ClosedSecond("u", {"arrivals": 1}, bytes(4000), bytes(4000), 100)], second + 1)
    start, until, entries = archive.page(0)
    assert until == 200
    assert start == 200 - len(entries) > 150
    assert entries[0][0] == start


def test_a_clock_that_is_set_back_loses_nothing_and_repeats_nothing(recorder, clock):
    visit(recorder, clock)
    advance(recorder, clock, 1.0)
    clock.now_s -= 100.0
    visit(recorder, clock)
    recorder.tick(["u"])
    assert len(read(recorder).fleets[0].bins) == 1
    advance(recorder, clock, 101.0)
    bins = read(recorder).fleets[0].bins
    assert [one.arrivals for one in bins] == [1, 1]
    assert len({one.second for one in bins}) == 2


def test_a_fleet_that_is_gone_leaves_no_book(recorder, clock):
    visit(recorder, clock)
    clock.now_s += 1.0
    recorder.tick([])
    assert not recorder._books


def test_records_survive_packing():
    kept = Reservoir(3)
    for number in range(3):
        kept.offer((float(3 - number), number, None, True), 0.5)
    rows = list(unpack(kept.pack(), (float, int, float, bool, float)))
    assert rows == [[1.0, 2, None, True, 1.0], [2.0, 1, None, True, 1.0], [3.0, 0, None, True, 1.0]]


# --- over HTTP --------------------------------------------------------------------------------------------------------


async def get(bench, path, token=None):
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    async with connected_to(bench.router.internal_port) as (reader, writer):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: r\r\n{authorization}\r\n".encode())
        return await read_answer(reader)


async def test_the_operator_reads_what_clients_asked_for(tmp_path):
    (tmp_path / "router.key").write_text(encode_key(KEY))
    token = derive_internal_token(KEY)
    async with running(tmp_path, [Engine("p0", "prefill"), Engine("d0", "decode")]) as bench:
        assert (await get(bench, "/internal/v1/demand")).status == 401
        for _ in range(3):
            request = http_post(chat(stream=True), headers="X-Slo-Ttft-Ms: 1500\r\nX-Slo-Tpot-Ms: 40\r\n")
            assert (await exchange(bench, request)).status == 200
        await bench.idle()
        wall = bench.router.demand._wall
        bench.router.demand._wall = lambda: wall() + 1.0  # the second in which it all happened is over
        bench.router.demand.tick(["u-1"])
        got = await get(bench, "/internal/v1/demand?fleet=default/demo&cursor=0", token)
        answer = DemandAnswer.model_validate_json(got.body)
        (fleet,) = answer.fleets
        assert (fleet.namespace, fleet.name, fleet.uid) == ("default", "demo", "u-1")
        assert sum(one.arrivals for one in fleet.bins) == sum(one.finished for one in fleet.bins) == 3
        assert {record.ttft_target_s for record in fleet.arrivals} == {1.5}
        ended = fleet.endings[0]
        assert (ended.prompt_tokens, ended.cached_tokens, ended.completion_tokens) == (11, 3, 4)
        assert ended.tpot_target_s == 0.04
        assert ended.prefilled_s is not None
        assert ended.decode_s > 0
        assert (await get(bench, "/internal/v1/demand?fleet=default/none", token)).status == 404
        assert (await get(bench, "/internal/v1/demand?cursor=soon", token)).status == 400
        body = json.loads((await get(bench, "/internal/v1/decisions", token)).body)
        assert body["decisions"][0]["fleet"] == "default/demo"


async def test_a_fleet_at_zero_holds_its_requests_and_shows_them(tmp_path):
    (tmp_path / "router.key").write_text(encode_key(KEY))
    token = derive_internal_token(KEY)
    async with running(tmp_path, [], {"queueTimeoutSeconds": 5}) as bench:
        while not bench.router.catalog.is_synced:  # noqa: ASYNC110 - another task's state
            await asyncio.sleep(0.005)
        asking = asyncio.create_task(exchange(bench, http_post(chat())))
        while not len(bench.router.catalog.names["m"].queue):  # noqa: ASYNC110 - another task's state
            await asyncio.sleep(0.005)
        got = await get(bench, "/internal/v1/demand", token)
        levels = DemandAnswer.model_validate_json(got.body).fleets[0].levels
        assert levels.queued == 1
        assert levels.queued_tokens > 0
        engine = Engine("d0", "mixed")
        await engine.start()
        bench.engines["d0"] = engine
        bench.write()
        assert (await asking).status == 200
