"""Ranks in other processes, as a test sees them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unit.kv.rank import ADDRESS

from tandem_worker.kv.decode_side import Peer

ROOT = Path(__file__).parents[4]


class Child:
    """One rank. `ask` waits for its answer; `tell` does not."""

    def __init__(self, directory: Path, name: str, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        paths = [ROOT / part for part in ("tests", "workers", "operator")]
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("peer.py")), str(directory), name, json.dumps(settings)],
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(map(str, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        identity = self.hear()
        self.peer = Peer(ADDRESS, identity["port"], identity["engine_id"])

    def tell(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the rank ended with {self.process.wait(10)}"
        said: dict[str, Any] = json.loads(line)
        return said

    def ask(self, **order: Any) -> dict[str, Any]:
        self.tell(**order)
        return self.hear()

    def lease(self, request_id: str, blocks: list[int]) -> dict[str, Any]:
        """Returns the ticket."""
        ticket: dict[str, Any] = self.ask(lease=request_id, blocks=blocks)["ticket"]
        return ticket

    def begin_pull(self, peer: Peer, ticket: dict[str, Any], blocks: list[int]) -> None:
        """`hear` says then which blocks did not come."""
        self.tell(pull=ticket, **{"from": asdict(peer), "into": blocks})

    def digests(self, blocks: list[int]) -> list[str]:
        found: list[str] = self.ask(digest=blocks)["digests"]
        return found

    def stats(self) -> dict[str, Any]:
        return self.ask(stats=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def running_child(
    directory: Path, name: str, environment: Mapping[str, str] | None = None, **settings: Any
) -> Iterator[Child]:
    child = Child(directory, name, settings, environment or {})
    try:
        yield child
    finally:
        child.kill()
        for stream in (child.process.stdin, child.process.stdout):
            if stream is not None:
                stream.close()
