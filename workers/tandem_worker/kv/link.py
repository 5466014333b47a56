"""One control connection: frames in, frames out, its end reported once."""

import asyncio
import ssl
from collections.abc import Callable

from tandem_worker.kv.messages import FrameReader, Message, WireError, encode_frame
from tandem_worker.kv.tls import name_tls_fault

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

    async def pump(self, on_message: Callable[[Message], None]) -> str | None:
        """Hand over messages until the connection ends, by either side or by a malformed frame.

        Returns why it ended, as a bounded name, where that is known: in TLS 1.3 the peer refuses our certificate only
        when the handshake is over for us, so an end before any message means that.
        """
        frames = FrameReader()
        fault = "tls_refused" if self._writer.get_extra_info("ssl_object") else None
        try:
            while data := await self._reader.read(_READ_BYTES):
                fault = None
                for message in frames.feed(data):
                    on_message(message)
        except ssl.SSLError as error:
            return name_tls_fault(error)
        except (OSError, WireError):
            return fault
        finally:
            self.close()
        return fault
