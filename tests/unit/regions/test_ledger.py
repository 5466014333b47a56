"""The account of a run of regions: what it calls lost, misplaced, and unsteady."""

from __future__ import annotations

from dataclasses import replace

import pytest

from regions.ledger import Ended, Ledger, count_swings
from regions.load import TOKENS, _Answer
from regions.setup import PAGE, TENANTS, allowed_regions, read_blocks

ONE = Ended("us", "eu-only", 10.0, 11.0, "ok", "eu", frozenset({"eu"}), 0.1)
ALLOWED = {"eu-only": frozenset({"eu"})}
LABELS = {name: {"jurisdiction": name} for name in ("eu", "us", "ap")}


def test_a_request_that_was_served_where_it_may_be_is_no_breach() -> None:
    assert Ledger([ONE]).breaches(ALLOWED) == []
    assert Ledger([ONE]).away_share() == 1.0


@pytest.mark.parametrize(
    "change", [{"region": "us"}, {"served_in": frozenset({"us"})}, {"served_in": frozenset({"eu", "ap"})}]
)
def test_a_breach_is_seen_by_the_header_and_by_the_workers(change: dict[str, object]) -> None:
    assert len(Ledger([replace(ONE, **change)]).breaches(ALLOWED)) == 1  # type: ignore[arg-type]  # fields of Ended


def test_labels_and_names_say_where_a_tenant_may_be_served() -> None:
    allowed = allowed_regions(LABELS)
    assert allowed == {
        "anywhere": frozenset(LABELS),
        "eu-only": frozenset({"eu"}),
        "not-us": frozenset({"eu", "ap"}),
    }
    assert set(allowed) == {tenant["name"] for tenant in TENANTS}


@pytest.mark.parametrize(
    ("shares", "swings"),
    [
        ([], 0),
        ([0.0, 0.1, 0.2, 0.1], 0),
        ([0.0, 0.3, 0.6, 0.6, 0.7], 0),
        ([0.0, 0.8, 0.1], 1),
        ([0.0, 0.8, 0.1, 0.9, 0.0], 3),
        ([0.5, 0.6, 0.4, 0.6, 0.4], 0),
    ],
)
def test_a_share_swings_when_it_turns_by_half(shares: list[float], swings: int) -> None:
    assert count_swings(shares) == swings


def answer(lines: list[str], **parts: object) -> _Answer:
    made = _Answer(**parts)  # type: ignore[arg-type]  # fields of _Answer
    for line in lines:
        made.take_line(line)
    return made


TOKEN = 'data: {"choices": [{"text": "a"}]}'
WHOLE = f'data: {{"choices": [], "usage": {{"completion_tokens": {TOKENS}}}}}'
SHORT = 'data: {"choices": [], "usage": {"completion_tokens": 1}}'
ERROR = 'data: {"error": {"code": "region_lost"}}'


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        ([TOKEN, WHOLE], "ok"),
        ([TOKEN, SHORT], "lost"),
        ([TOKEN], "lost"),
        ([], "lost"),
        ([TOKEN, ERROR], "cut"),
        ([ERROR], "refused"),
    ],
)
def test_a_stream_ends_whole_or_with_a_word_or_is_lost(lines: list[str], outcome: str) -> None:
    assert answer(lines).judge() == outcome


def test_an_error_without_a_type_is_a_loss() -> None:
    made = _Answer()
    made.refuse(502, b"<html>")
    assert (made.judge(), made.detail) == ("lost", "502 without a typed error")
    made.refuse(503, b'{"error": {"code": "no_region"}}')
    assert (made.judge(), made.detail) == ("refused", "503 no_region")


def test_the_page_holds_the_commands_that_are_run() -> None:
    blocks = read_blocks(PAGE.read_text())
    assert len(blocks) == 3
    assert "helm upgrade --install tandem charts/tandem" in blocks[1]
