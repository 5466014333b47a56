"""The operator, except that it dies at a chosen write: `python crashing_operator.py before|after N FLAGS…`

Writes are counted from the start of the process, status and Events included, the lease apart. The process ends by
`os._exit`: nothing is cleaned up, released or flushed, and what else is in flight is cut off.
"""

from __future__ import annotations

import os
import sys

from tandem_operator.app import main
from tandem_operator.cluster import Cluster, _Call
from tandem_operator.kinds import Manifest

EXIT_CODE = 86


def die_at(moment: str, number: int) -> None:
    """Makes the `number`-th write the last thing that this process does, or the first that it does not."""
    write = Cluster._write
    count = 0

    async def counted(cluster: Cluster, call: _Call) -> Manifest:
        nonlocal count
        count += 1
        is_last = count == number
        if is_last and moment == "before":
            os._exit(EXIT_CODE)
        answer = await write(cluster, call)
        if is_last:
            os._exit(EXIT_CODE)
        return answer

    Cluster._write = counted  # type: ignore[method-assign]  # the very point of this program


if __name__ == "__main__":
    die_at(sys.argv[1], int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
