"""One control connection: frames in, frames out, its end reported once."""

import asyncio
from collections.abc import Callable

from tandem_worker.kv.messages import FrameReader, Message, WireError, encode_frame

_READ_BYTES = 64 << 10


class ControlLink:
    """Used from the KV thread's event loop only."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Message) -> None:
        self._writer.write(encode_frame(message))

    def close(self) -> None:
        """What was sent before still goes out."""
        self._writer.close()

    async def pump(self, on_message: Callable[[Message], None]) -> None:
        """Hand over messages until the connection ends, by either side or by a malformed frame."""
        frames = FrameReader()
        try:
            while data := await self._reader.read(_READ_BYTES):
                for message in frames.feed(data):
                    on_message(message)
        except (OSError, WireError):
            return
        finally:
            self.close()
