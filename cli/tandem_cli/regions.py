"""`tandem regions`: which regions there are, and what a router knows of them."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from tandem_api.regions import REGIONS_PATH, PeerReport, RegionMatrix
from tandem_cli.errors import CommandError
from tandem_cli.router_access import fetch_from_router, fetch_token, read_token

_EPILOG = """examples:
  kubectl port-forward -n tandem deploy/tandem-router 8443 &
  tandem regions --router http://127.0.0.1:8443 -n tandem
  tandem regions --router http://127.0.0.1:8443 --token-file token --json

Without --token-file the token comes from the Secret tandem-router of the namespace; you need get on it.
Exit code 1: a peer cannot be used."""
_HEAD = ("REGION", "STATE", "SINCE", "RTT", "ACCEPTS", "HEADROOM", "TTFT", "SPILLED", "FAILED", "PRICE", "LABELS")
_UNUSABLE = ("down", "no_url")


def configure(parser: argparse.ArgumentParser) -> None:
    """All flags, with help."""
    parser.description = "Print the regions as a router sees them: whether they take requests, how far, how free."
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("--router", required=True, metavar="URL", help="internal listener of a router, port 8443")
    add("--token-file", type=Path, metavar="FILE", help="bearer token of the internal listener")
    add("-n", "--namespace", help="of the installation; default: the namespace of the kubeconfig's context")
    add("--kubeconfig", help="default: $KUBECONFIG, or ~/.kube/config")
    add("--json", action="store_true", help="what the router said, as it said it")


def run(options: argparse.Namespace) -> int:
    """0: told. 1: told, and a peer cannot be used. 2: wrong input, told in one sentence."""
    try:
        given = options.token_file
        token = read_token(given) if given else fetch_token(options.kubeconfig, options.namespace)
        body = fetch_from_router(options.router, REGIONS_PATH, token)
        matrix = read_matrix(body)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(body.decode() if options.json else "\n".join(show(matrix)))
    return int(any(peer.state in _UNUSABLE for peer in matrix.peers.values()))


def read_matrix(body: bytes) -> RegionMatrix:
    """Parses what a router said.

    Raises:
        CommandError: it is of another release.
    """
    try:
        return RegionMatrix.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CommandError(f"the router is of another release than this command: {field}: {first['msg']}") from error


def show(matrix: RegionMatrix) -> Iterator[str]:
    """A table, this region first, and below it what stands in the way of a peer."""
    rows = [_HEAD, _own_row(matrix), *(_row(name, peer) for name, peer in sorted(matrix.peers.items()))]
    yield from _align(rows)
    for name, peer in sorted(matrix.peers.items()):
        if peer.state == "no_url":
            yield f"{name}: its InferenceRegion has no spec.url: set it, or delete the object"
        elif peer.fault:
            yield f"{name}: {peer.fault}"
        for fleet in sorted(peer.uncoverable):
            yield f"{name}: cannot cover the demand of {fleet}; the others help"
    if matrix.choices:
        yield "requests: " + ", ".join(f"{reason} {count}" for reason, count in sorted(matrix.choices.items()))
    if matrix.refusals:
        yield "refused: " + ", ".join(f"{reason} {count}" for reason, count in sorted(matrix.refusals.items()))


def _own_row(matrix: RegionMatrix) -> tuple[str, ...]:
    state = "draining" if matrix.drain else "this one"
    blank = ("",) * (len(_HEAD) - 4)
    return (matrix.region, state, *blank, f"{matrix.price_weight:g}", _labels(matrix.labels))


def _row(name: str, peer: PeerReport) -> tuple[str, ...]:
    return (
        name,
        peer.state,
        _number(peer.since_s, "s", 0),
        _number(peer.rtt_ms, "ms", 1),
        f"{peer.accepts:.0%}",
        str(peer.headroom_slots),
        _number(peer.predicted_ttft_s, "s", 3),
        str(peer.spilled_total),
        str(peer.failures_total),
        f"{peer.price_weight:g}",
        _labels(peer.labels),
    )


def _number(value: float | None, unit: str, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f} {unit}"


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "-"


def _align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
