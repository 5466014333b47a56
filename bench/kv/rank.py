"""One end of a measurement, a process of its own.

python -m bench.kv.rank SCHEME prefill CHUNK_BYTES         prints its port, serves until the decode end leaves
python -m bench.kv.rank SCHEME decode PORT CHUNK_BYTES     one transfer, and one line of JSON, per line of its stdin
"""

import importlib
import json
import os
import socket
import sys
import time
from typing import Any

from bench.kv.cache import Cache
from bench.kv.peer import Peer
from bench.kv.shape import scatter_blocks

ADDRESS = "127.0.0.1"
SENT, RECEIVED = scatter_blocks(0), scatter_blocks(1)


def serve(scheme: Any, chunk_bytes: int) -> None:
    """The prefill end."""
    with socket.create_server((ADDRESS, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
    peer, cache = Peer(connection), Cache()
    cache.fill()
    prefill = scheme.Prefill(cache, SENT, chunk_bytes, peer)
    while (word := peer.hear()) is not None:
        if word == "go":
            prefill.send()
            continue
        prefill.prepare()
        peer.say(time.process_time())
    prefill.close()


def measure(scheme: Any, port: int, chunk_bytes: int) -> None:
    """The decode end: time from asking to the last byte in its place. Checks the bytes when its stdin ends."""
    peer, cache = Peer(socket.create_connection((ADDRESS, port))), Cache()
    decode = scheme.Decode(cache, SENT, RECEIVED, chunk_bytes, peer)
    for number, _ in enumerate(sys.stdin):
        if number == 1:
            cache.clear()  # the first transfer is a warm-up; what is checked came while the clock ran
        _say(measure_one(decode, peer))
    _say({"wrong_pages": cache.count_wrong_pages(SENT, RECEIVED) if scheme.IS_SCATTERED else 0})
    decode.close()


def measure_one(decode: Any, peer: Peer) -> dict[str, float]:
    """Wall and CPU seconds of one transfer."""
    prefill_cpu_s, decode_cpu_s = _prepare(peer), time.process_time()
    started_s = time.perf_counter()
    peer.say("go")
    decode.receive()
    took_s = time.perf_counter() - started_s
    decode_cpu_s = time.process_time() - decode_cpu_s
    return {"seconds": took_s, "prefill_cpu_s": _prepare(peer) - prefill_cpu_s, "decode_cpu_s": decode_cpu_s}


def _prepare(peer: Peer) -> float:
    """CPU seconds that the prefill end has used so far."""
    peer.say("prepare")
    return float(peer.hear())


def _say(value: dict[str, float]) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    name, role, *rest = sys.argv[1:]
    scheme = importlib.import_module(f"bench.kv.schemes.{name}")
    if role == "prefill":
        serve(scheme, int(rest[0]))
    else:
        measure(scheme, int(rest[0]), int(rest[1]))
    os._exit(0)  # threads of the measured libraries have no say in when this ends


if __name__ == "__main__":
    main()
