"""Free loopback ports, chosen by the kernel.

Between choosing and binding another process may take one; whoever uses these must be ready to try again.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack


def find_free_ports(count: int) -> list[int]:
    """``count`` distinct TCP ports that were free on 127.0.0.1 a moment ago."""
    with ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
