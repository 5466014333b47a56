"""The yardstick: one contiguous buffer through one socket, chunk by chunk; nothing is gathered or scattered."""

import socket

from bench.kv.cache import Cache
from bench.kv.peer import Peer
from bench.kv.shape import REQUEST_BYTES

IS_SCATTERED = False


class Prefill:
    def __init__(self, cache: Cache, blocks: list[int], chunk_bytes: int, peer: Peer) -> None:
        self._chunks = _cut(cache, chunk_bytes)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer.say(listener.getsockname()[1])
            self._socket, _ = listener.accept()

    def prepare(self) -> None:
        """Nothing to do."""

    def send(self) -> None:
        for chunk in self._chunks:
            self._socket.sendall(chunk)

    def close(self) -> None:
        self._socket.close()


class Decode:
    def __init__(self, cache: Cache, sent: list[int], received: list[int], chunk_bytes: int, peer: Peer) -> None:
        self._chunks = _cut(cache, chunk_bytes)
        self._socket = socket.create_connection(("127.0.0.1", peer.hear()))

    def receive(self) -> None:
        for chunk in self._chunks:
            rest = chunk
            while rest:
                rest = rest[self._socket.recv_into(rest, 0, socket.MSG_WAITALL) :]

    def close(self) -> None:
        self._socket.close()


def _cut(cache: Cache, chunk_bytes: int) -> list[memoryview]:
    view = memoryview(cache.bytes)
    return [view[first : first + chunk_bytes] for first in range(0, REQUEST_BYTES, chunk_bytes)]
