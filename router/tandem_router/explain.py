"""`tandem-router explain`: takes one sampled decision of a router again, and shows what the losers would cost."""

import argparse
import json
import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from tandem_api import labels
from tandem_router.internal import DECISIONS_PATH
from tandem_router.keys import KeyFileError, KeyRing
from tandem_router.policy.pairing import Busy
from tandem_router.policy.replay import RecordedDecision, Score, parse_decision, score_decodes, score_prefills
from tandem_router.settings import DEFAULT_KEYS_DIR

TIMEOUT_S = 5.0
HEADINGS = ("worker", "hit", "missing", "running", "backlog", "cost", "transfer s", "all local s", "")


class ExplainError(Exception):
    """Nothing can be explained; the message says why and what to do."""


def main(arguments: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        decisions = fetch_decisions(options) if options.file is None else read_decisions(options.file)
        if options.list:
            print("\n".join(map(summarise, decisions)))
        else:
            print(explain(choose(decisions, options.number)))
    except (ExplainError, KeyFileError) as error:
        print(f"tandem-router explain: {error}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tandem-router explain",
        description="Shows why a request went where it went: one sampled decision, with the scores of the losers. A "
        "router keeps one decision per fleet and second, the newest 256; no prompts.",
    )
    parser.add_argument(
        "--url",
        default=f"http://127.0.0.1:{labels.ROUTER_INTERNAL_PORT}",
        help="internal listener of the router (default: %(default)s; kubectl port-forward makes it reachable)",
    )
    parser.add_argument("--keys-dir", type=Path, default=os.environ.get("TANDEM_ROUTER_KEYS_DIR", DEFAULT_KEYS_DIR))
    parser.add_argument("--fleet", metavar="NAMESPACE/NAME", help="only decisions of this fleet")
    parser.add_argument("--number", type=int, help="this decision (default: the newest)")
    parser.add_argument("--list", action="store_true", help="one line per decision instead")
    parser.add_argument("--file", type=Path, help="read decisions that were saved, instead of asking a router")
    return parser


def fetch_decisions(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Decisions of a running router, newest first.

    Raises:
        ExplainError: it cannot be asked.
    """
    token = KeyRing(options.keys_dir, required=True).internal_token()
    asked = {"fleet": options.fleet, "number": options.number}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    if not options.url.startswith(("http://", "https://")):
        raise ExplainError(f"--url {options.url} must begin with http:// or https://")
    request = Request(f"{options.url}{DECISIONS_PATH}?{query}", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    # The certificate of an internal listener names no host; the token says who we are, and stays on this machine.
    context = ssl._create_unverified_context() if options.url.startswith("https://") else None  # noqa: S323
    try:
        with urlopen(request, timeout=TIMEOUT_S, context=context) as answer:  # noqa: S310
            return decisions_in(answer.read())
    except HTTPError as error:
        raise ExplainError(
            f"{options.url} answers HTTP {error.code}: {error.read(500).decode(errors='replace')}"
        ) from None
    except (URLError, TimeoutError) as error:
        raise ExplainError(f"{options.url} cannot be reached: {error}") from error


def read_decisions(file: Path) -> list[dict[str, Any]]:
    """Decisions saved from `/internal/v1/decisions`.

    Raises:
        ExplainError: the file cannot be read.
    """
    try:
        return decisions_in(file.read_bytes())
    except OSError as error:
        raise ExplainError(f"{file} cannot be read: {error}") from error


def decisions_in(text: bytes) -> list[dict[str, Any]]:
    """The decisions of an answer.

    Raises:
        ExplainError: it holds none.
    """
    try:
        found = json.loads(text)["decisions"]
    except (ValueError, KeyError, TypeError):
        raise ExplainError("the answer holds no decisions: is this a router's internal listener?") from None
    return list(found)


def choose(decisions: Sequence[dict[str, Any]], number: int | None) -> dict[str, Any]:
    """One decision.

    Raises:
        ExplainError: it is not there.
    """
    for decision in decisions:
        if number in (None, decision["number"]):
            return decision
    raise ExplainError("no such decision is kept; send a request, or look at --list")


def summarise(decision: Mapping[str, Any]) -> str:
    """One line."""
    at = datetime.fromtimestamp(decision["unix_s"], UTC).isoformat(timespec="milliseconds")
    pair = ",".join(filter(None, (decision["prefill"], decision["decode"])))
    return f"{decision['number']:>6}  {at}  {decision['fleet']}  {pair}  {decision['reason']}"


def explain(decision: Mapping[str, Any]) -> str:
    """The whole story of one decision.

    Raises:
        ExplainError: it is of another version of the router.
    """
    try:
        recorded = parse_decision(decision["fields"])
    except ValueError as error:
        raise ExplainError(str(error)) from error
    want = recorded.want
    objective = "none" if want.tpot_s is None else f"{want.tpot_s:g} s"
    lines = [
        summarise(decision),
        f"prompt of about {want.tokens} tokens; waited {decision['waited_s']:.3f} s; TPOT objective {objective}; "
        f"kv-revision {decision['revision']}",
    ]
    for title, (rows, is_seconds) in (
        ("prefill", score_prefills(recorded)),
        ("decode", score_decodes(recorded)),
    ):
        if rows:
            unit = "seconds" if is_seconds else "work × batch, no unit: nothing is learned yet"
            lines += ["", f"{title} workers (cost in {unit})", *table(rows, decision[title])]
    return "\n".join([*lines, "", verdict(recorded, decision)])


def table(rows: Sequence[Score], winner: str | None) -> list[str]:
    """Rows, cheapest first, the winner marked."""
    ordered = sorted(rows, key=lambda row: (row.cost is None, row.cost or 0.0, row.name))
    cells = [HEADINGS, *(cells_of(row, winner) for row in ordered)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    return ["  " + line(row, widths) for row in cells]


def line(row: Sequence[str], widths: Sequence[int]) -> str:
    """One row: the name to the left, numbers to the right."""
    name, *numbers = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join([name.strip().ljust(widths[0]), *numbers]).rstrip()


def cells_of(row: Score, winner: str | None) -> tuple[str, ...]:
    """One row as text."""
    numbers = (row.hit_tokens, row.missing_tokens, row.running, row.backlog_tokens)
    note = "◄ chosen" if row.name == winner else row.why_out
    return (row.name, *map(str, numbers), *map(number_text, (row.cost, row.transfer_s, row.local_s)), note)


def number_text(value: float | None) -> str:
    """A cost; a dash for none."""
    return "–" if value is None else f"{value:.4g}"


def verdict(recorded: RecordedDecision, decision: Mapping[str, Any]) -> str:
    """What today's code decides from the same."""
    again = recorded.replay()
    if isinstance(again, Busy):
        return f"replayed: it would wait for a {again.role} worker"
    prefill = None if again.prefill is None else again.prefill.name
    same = (prefill, again.decode.name, again.reason) == (decision["prefill"], decision["decode"], decision["reason"])
    pair = ",".join(filter(None, (prefill, again.decode.name)))
    return f"replayed: {pair} ({again.reason}), {'as it was' if same else 'NOT as it was taken'}"
