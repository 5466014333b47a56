"""Runs each scheme's two processes, and lets the schemes take turns."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.kv.shape import REQUEST_BYTES

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDS = {"raw": (), "tandem": ("pydantic",), "gloo": ("torch",), "nixl": ("nixl", "torch")}


class BenchError(RuntimeError):
    """A measurement that cannot be made, or that moved wrong bytes; the message says why."""


@dataclass(frozen=True)
class Transfer:
    """Wall seconds, and CPU seconds of each end."""

    seconds: float
    prefill_cpu_s: float
    decode_cpu_s: float

    @property
    def gb_per_s(self) -> float:
        return REQUEST_BYTES / self.seconds / 1e9


def find_missing(scheme: str) -> list[str]:
    """Modules that this Python lacks for `scheme`."""
    return [module for module in NEEDS[scheme] if importlib.util.find_spec(module) is None]


class Pair:
    """Two running ends. A context manager: both are gone when it is left."""

    def __init__(self, scheme: str, chunk_bytes: int) -> None:
        self._scheme = scheme
        self._prefill = _start(scheme, "prefill", str(chunk_bytes))
        assert self._prefill.stdout is not None
        port = self._prefill.stdout.readline().strip()
        self._decode = _start(scheme, "decode", port, str(chunk_bytes))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._decode, self._prefill):
            end.kill()
            end.wait()

    def transfer(self) -> Transfer:
        """Raises BenchError."""
        assert self._decode.stdin is not None
        self._decode.stdin.write("go\n")
        self._decode.stdin.flush()
        return Transfer(**self._read())

    def check(self) -> None:
        """No more transfers; raises BenchError when a byte was wrong."""
        assert self._decode.stdin is not None
        self._decode.stdin.close()
        if wrong := self._read()["wrong_pages"]:
            raise BenchError(f"{self._scheme}: {wrong} pages hold wrong bytes")

    def _read(self) -> dict[str, float]:
        assert self._decode.stdout is not None
        while line := self._decode.stdout.readline():
            if line.startswith("{"):  # libraries print greetings
                values: dict[str, float] = json.loads(line)
                return values
        assert self._decode.stderr is not None
        raise BenchError(f"{self._scheme}: the decode end failed:\n{self._decode.stderr.read()[-2000:]}")


def measure_round(schemes: Sequence[str], repeats: int, chunk_bytes: int) -> dict[str, list[Transfer]]:
    """Fresh processes, a warm-up, then transfers in turns: what else the machine does falls on all schemes alike.

    Raises BenchError.
    """
    with ExitStack() as stack:
        pairs = {scheme: stack.enter_context(Pair(scheme, chunk_bytes)) for scheme in schemes}
        for pair in pairs.values():
            pair.transfer()
        turns = [{scheme: pairs[scheme].transfer() for scheme in _rotate(schemes, turn)} for turn in range(repeats)]
        for pair in pairs.values():
            pair.check()
    return {scheme: [turn[scheme] for turn in turns] for scheme in schemes}


def _rotate(schemes: Sequence[str], turn: int) -> list[str]:
    """Each begins as often as the others: what one leaves behind in caches and run queues falls on all."""
    first = turn % len(schemes)
    return [*schemes[first:], *schemes[:first]]


def _start(*arguments: str) -> "subprocess.Popen[str]":
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in (".", "workers", "operator")),
        "UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "lo", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "bench.kv.rank", *arguments],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
