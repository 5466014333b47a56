"""One request to a router's internal listener."""

import logging
from collections.abc import Iterable, Mapping

import aiohttp

from tandem_api import labels

TIMEOUT = aiohttp.ClientTimeout(total=3, sock_connect=1)

_log = logging.getLogger(__name__)


async def fetch_from_router(
    session: aiohttp.ClientSession,
    address: str,
    path: str,
    tokens: Iterable[str],
    query: Mapping[str, str] | None = None,
) -> bytes | None:
    """The body of a 200; None for anything else, which is logged.

    While keys are rotated a router may still know, or already, only the second of the tokens.
    """
    host = f"[{address}]" if ":" in address else address
    url, status = f"http://{host}:{labels.ROUTER_INTERNAL_PORT}{path}", 0
    try:
        for token in tokens:
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(url, headers=headers, params=query, timeout=TIMEOUT) as response:
                if response.status == 200:
                    return await response.read()
                status = response.status
        _log.warning("router %s answers %d for %s", address, status, path)
    except (aiohttp.ClientError, TimeoutError) as error:
        _log.info("router %s does not answer %s: %s", address, path, error or "not in time")
    return None
