"""One question to the router, and what a client sees of the answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from demo.errors import DemoError

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Answer:
    """What came back. Times in seconds as the client measured them; `tpot_s` needs two tokens."""

    model: str
    text: str
    ttft_s: float
    tpot_s: float | None
    total_s: float
    usage: dict[str, Any] = field(default_factory=dict)
    served_by: str = ""


def ask(url: str, model: str, prompt: str, max_tokens: int, show: Callable[[str], None] | None = None) -> Answer:
    """Stream a completion; `show` receives each piece of text as it comes.

    Raises:
        DemoError: the router answered with an error, or the stream broke; the message is the router's.
    """
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = time.monotonic()
    try:
        with (
            httpx.Client(trust_env=False, timeout=TIMEOUT_S) as http,
            http.stream("POST", f"{url}/v1/completions", json=body) as response,
        ):
            if response.is_error:
                raise DemoError(
                    f"the router answered {response.status_code}: {response.read().decode()}", "see its logs"
                )
            return _collect(response, model, started, show)
    except httpx.HTTPError as error:
        raise DemoError(f"the stream broke: {error!r}", "see the router's logs") from error


def _collect(response: httpx.Response, model: str, started: float, show: Callable[[str], None] | None) -> Answer:
    pieces: list[str] = []
    first = last = started
    usage: dict[str, Any] = {}
    for event in _events(response):
        if "error" in event:
            raise DemoError(f"the stream ended with an error: {event['error']}", "see the router's logs")
        usage = event.get("usage") or usage
        text = "".join(choice.get("text") or "" for choice in event.get("choices", []))
        if event.get("choices"):
            last = time.monotonic()
            first = first if pieces else last
            pieces.append(text)
            if show:
                show(text)
    tokens = int(usage.get("completion_tokens", len(pieces)))
    return Answer(
        model=model,
        text="".join(pieces),
        ttft_s=first - started,
        tpot_s=(last - first) / (tokens - 1) if tokens > 1 else None,
        total_s=time.monotonic() - started,
        usage=usage,
        served_by=response.headers.get("x-served-by", ""),
    )


def _events(response: httpx.Response) -> Any:
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[len("data: ") :])
