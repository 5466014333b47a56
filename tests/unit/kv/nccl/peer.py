"""A rank in a process of its own, on a fake GPU or on a real one, so that it can be killed. Orders are lines of JSON.

python peer.py DIRECTORY NAME SETTINGS: says who it is, then does what it is told.
"""

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from unit.kv.nccl.conftest import gpu_rank
from unit.kv.rank import Rank, Shape

from tandem_worker.kv.decode_side import Peer
from tandem_worker.kv.local import fetch_stats


def main() -> None:
    directory, name, text = sys.argv[1:]
    settings = json.loads(text)
    if "shape" in settings:
        settings["shape"] = Shape(**settings["shape"])
    with gpu_rank(Path(directory), name, **settings) as rank:
        _say(port=rank.settings.port, engine_id=rank.engine.engine_id)
        for line in sys.stdin:
            _obey(rank, json.loads(line))


def _obey(rank: Rank, order: dict[str, Any]) -> None:
    match order:
        case {"lease": request_id, "blocks": blocks}:
            rank.service.register_lease(request_id, [blocks])
            _say(ticket=rank.ticket(request_id, blocks))
        case {"pull": ticket, "from": peer, "into": blocks}:
            rank.pull(Peer(**peer), ticket, blocks)
            _say(missing=sorted(rank.await_load(60).missing_blocks))
        case {"digest": blocks}:
            _say(digests=[hashlib.sha256(rank.block(block)).hexdigest() for block in blocks])
        case {"stats": _}:
            _say(**asyncio.run(fetch_stats(rank.socket)))


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
