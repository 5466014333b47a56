"""A TCP relay between two KV ranks that breaks what passes."""

import socket
import threading

ADDRESS = "127.0.0.1"


class Relay:
    """Stands between two ranks and breaks what passes. Counts bytes from prefill to decode over all connections."""

    def __init__(self, target: tuple[str, int], after_bytes: int, *, is_black_hole: bool) -> None:
        self._target = target
        self._budget = after_bytes
        self._is_black_hole = is_black_hole
        self.heard = bytearray()  # all that passed, of both directions
        self._listener = socket.create_server((ADDRESS, 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                inward, _ = self._listener.accept()
                outward = socket.create_connection(self._target)
                self._sockets += [inward, outward]
                for source, sink, is_counted in ((inward, outward, False), (outward, inward, True)):
                    threading.Thread(target=self._pump, args=(source, sink, is_counted), daemon=True).start()
        except OSError:
            return

    def _pump(self, source: socket.socket, sink: socket.socket, is_counted: bool) -> None:
        try:
            while data := source.recv(16384):
                self.heard += data
                if is_counted:
                    self._budget -= len(data)
                if self._budget <= 0:
                    if self._is_black_hole:
                        continue
                    self.close()
                    return
                sink.sendall(data)
        except OSError:
            return

    def close(self) -> None:
        for endpoint in self._sockets:
            endpoint.close() if endpoint is self._listener else _reset(endpoint)


def _reset(endpoint: socket.socket) -> None:
    try:
        endpoint.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
