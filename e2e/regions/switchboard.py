"""All lines, in a process of their own: what keeps the load generator busy must not look like a silent region.

    python -m regions.switchboard eu us ap

The first line of its output says the ports; each line of its input is an `Order`. Both are JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import permutations
from typing import Any

from regions.line import Address, Line, Weather

Pair = tuple[str, str]


@dataclass(frozen=True)
class Order:
    """Another weather on a line (`pair`), or another address of a region (`region`; none: nobody is there)."""

    pair: Pair | None = None
    weather: Mapping[str, Any] = field(default_factory=dict)
    region: str | None = None
    address: Address | None = None


class Switchboard:
    """The lines, from the process that hurts them."""

    def __init__(self, names: Sequence[str]) -> None:
        command = [sys.executable, "-m", "regions.switchboard", *names]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        ports = json.loads(self._process.stdout.readline())
        self.urls = {(a, b): f"http://127.0.0.1:{ports[a][b]}" for a, b in permutations(names, 2)}
        self._addresses: dict[str, Address | None] = {}

    def change(self, pair: Pair, weather: Weather) -> None:
        """Other weather on one line."""
        self._send(Order(pair=pair, weather=asdict(weather)))

    def lead(self, region: str, address: Address | None) -> None:
        """All lines to a region lead to this address from now on."""
        if self._addresses.get(region, ()) != address:
            self._addresses[region] = address
            self._send(Order(region=region, address=address))

    def close(self) -> None:
        """End it, and reset what is carried."""
        self._process.kill()
        self._process.communicate()

    def _send(self, order: Order) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()


async def serve(names: Sequence[str]) -> None:
    """Carry until the input ends."""
    addresses: dict[str, Address] = {}
    lines = {(a, b): Line(partial(addresses.get, b)) for a, b in permutations(names, 2)}
    for line in lines.values():
        await line.open()
    ports = {a: {b: lines[a, b].port for b in names if a != b} for a in names}
    print(json.dumps(ports), flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while text := await reader.readline():
        order = json.loads(text)
        if order["pair"]:
            lines[tuple(order["pair"])].weather = Weather(**order["weather"])
        elif order["address"]:
            addresses[order["region"]] = (order["address"][0], order["address"][1])
        else:
            addresses.pop(order["region"], None)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
