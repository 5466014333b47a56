"""The example in docs/routing.md is what `tandem-router explain` prints of it."""

from pathlib import Path

import pytest

from tandem_router.explain import explain
from tandem_router.policy.costs import Want
from tandem_router.policy.pairing import PairingRules
from tandem_router.policy.replay import RecordedDecision, RecordedFit, RecordedFits, RecordedWorker

PAGE = Path(__file__).parents[3] / "docs" / "routing.md"
UNKNOWN = RecordedFit(None)
NOTHING = RecordedFits(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
PREFILL = RecordedFits(RecordedFit((0.005, 1e-4, 0.0)), UNKNOWN, UNKNOWN, UNKNOWN)  # 10,000 tokens a second, and 5 ms
DECODE = RecordedFits(
    RecordedFit((0.005, 1.5e-4, 0.0)), RecordedFit((0.02, 1e-4, 1e-7)), RecordedFit((0.002, 2e-6, 0.0)), UNKNOWN
)


def worker(name, bit, running, backlog, fits):
    return RecordedWorker(name, bit, running, backlog, 256, True, "", 1.0, 1.0, False, fits)


def decision(*, is_learned):
    prefill, decode = (PREFILL, DECODE) if is_learned else (NOTHING, NOTHING)
    recorded = RecordedDecision(
        Want(2001, 64.0, 0.05 if is_learned else None),
        (worker("p0", 1, 1, 900, prefill), worker("p1", 2, 0, 0, prefill)),
        (worker("d0", 4, 3, 6000, decode), worker("d1", 8, 12, 30_000, decode)),
        None,
        False,
        {1: 20},
        PairingRules(),
        0.5,
    )
    pair = recorded.replay()
    return {
        "number": 2 if is_learned else 1,
        "unix_s": 1_700_000_000.25,
        "fleet": "team-a/llama",
        "revision": "5f0c",
        "prefill": pair.prefill.name,
        "decode": pair.decode.name,
        "reason": pair.reason,
        "waited_s": 0.0,
        "fields": recorded.to_fields(),
    }


@pytest.mark.parametrize("is_learned", [False, True])
def test_the_page_shows_what_the_command_prints(is_learned):
    assert explain(decision(is_learned=is_learned)) in PAGE.read_text()
