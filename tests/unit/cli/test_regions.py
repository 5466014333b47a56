"""tandem regions: the table, and what is said when there is none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tandem_cli.app import main

MATRIX: dict[str, Any] = {
    "region": "eu",
    "drain": False,
    "labels": {"jurisdiction": "eu"},
    "price_weight": 1.0,
    "choices": {"home_is_content": 7, "spilled": 3},
    "refusals": {},
    "later": "a field of the next release",
    "peers": {
        "us": {
            "state": "up",
            "since_s": 61.2,
            "rtt_ms": 84.26,
            "accepts": 0.5,
            "headroom_slots": 12,
            "predicted_ttft_s": 0.2104,
            "spilled_total": 3,
            "failures_total": 1,
            "uncoverable": {"team/llama": {"requestsPerSecond": 3.0}},
            "price_weight": 0.8,
            "labels": {},
            "fault": "",
        }
    },
}
DEAD = {"state": "down", "since_s": 2.0, "fault": "no connection to http://10.0.0.9:8443: refused"}
TOKEN = "the-token"


class Router(BaseHTTPRequestHandler):
    """Answers as a router's internal listener does."""

    said: Any = MATRIX

    def do_GET(self) -> None:
        body = json.dumps(self.said).encode()
        is_known = self.headers["Authorization"] == f"Bearer {TOKEN}"
        self.send_response(404 if self.path != "/internal/v1/regions" else 200 if is_known else 401)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Any]:
    """Runs the command against a router that says something; returns its exit code."""
    server = HTTPServer(("127.0.0.1", 0), Router)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    url = f"http://127.0.0.1:{server.server_port}"

    def run(said: Any = MATRIX, *more: str, path: str = "", token_file: Path = file) -> int:
        Router.said = said
        return main(["regions", "--router", f"{url}{path}", "--token-file", str(token_file), *more])

    yield run
    server.shutdown()
    server.server_close()


def test_the_table_has_this_region_first_and_every_peer_below(ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask() == 0
    head, own, peer, *rest = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["REGION", "STATE", "SINCE"]
    assert own.split() == ["eu", "this", "one", "1", "jurisdiction=eu"]
    assert peer.split() == ["us", "up", "61", "s", "84.3", "ms", "50%", "12", "0.210", "s", "3", "1", "0.8", "-"]
    assert rest == [
        "us: cannot cover the demand of team/llama; the others help",
        "requests: home_is_content 7, spilled 3",
    ]


def test_a_peer_that_cannot_be_used_fails_the_command_and_says_why(
    ask: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(MATRIX | {"peers": {"us": DEAD, "ap": {"state": "no_url"}}}) == 1
    said = capsys.readouterr().out
    assert "us: no connection to http://10.0.0.9:8443: refused" in said
    assert "ap: its InferenceRegion has no spec.url: set it" in said


def test_json_is_what_the_router_said(ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(MATRIX, "--json") == 0
    assert json.loads(capsys.readouterr().out) == MATRIX


@pytest.mark.parametrize(
    ("said", "path", "sentence"),
    [
        ({"peers": []}, "", "another release"),
        (MATRIX, "/wrong", "knows no regions: set region.name"),
        ("text", "", "another release"),
    ],
)
def test_an_answer_that_is_none_is_told_in_one_sentence(
    ask: Any, capsys: pytest.CaptureFixture[str], said: Any, path: str, sentence: str
) -> None:
    assert ask(said, path=path) == 2
    assert sentence in capsys.readouterr().err


def test_a_wrong_token_is_told(ask: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("other")
    assert ask(token_file=wrong) == 2
    assert "does not accept the token" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "", "two words"])
def test_a_token_file_that_holds_none_is_told(
    ask: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None
) -> None:
    bad = tmp_path / "bad"
    if content is not None:
        bad.write_text(content)
    assert ask(token_file=bad) == 2
    assert f"--token-file {bad}" in capsys.readouterr().err


def test_a_router_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    assert main(["regions", "--router", "http://127.0.0.1:1", "--token-file", str(tmp_path / "token")]) == 2
    assert "does not answer" in capsys.readouterr().err


def test_without_a_token_the_cluster_is_asked_and_told_to_be_absent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    absent = tmp_path / "absent"
    assert main(["regions", "--router", "http://127.0.0.1:1", "--kubeconfig", str(absent)]) == 2
    assert "give --kubeconfig, or --token-file" in capsys.readouterr().err
