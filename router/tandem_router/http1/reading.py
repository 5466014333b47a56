"""Receives without an allocation per read: a loop would otherwise map and unmap a large buffer for each."""

import asyncio

READ_BYTES = 256 * 1024


def new_read_buffer() -> memoryview:
    """One for all connections of a pool or listener: a loop fills it and reports it in the same step."""
    return memoryview(bytearray(READ_BYTES))


class BufferedReader(asyncio.BufferedProtocol):
    """A protocol that gets bytes, as `asyncio.Protocol` does, from a buffer that it shares with others."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        raise NotImplementedError
