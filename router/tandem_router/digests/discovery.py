"""Finds the other router replicas by their pods, read-only; addresses that were given are given."""

from collections.abc import Callable
from typing import Any

from tandem_api import labels
from tandem_router.digests.mesh import format_address
from tandem_router.discovery.api_client import ApiClient
from tandem_router.discovery.objects import is_ready
from tandem_router.discovery.reflector import Reflector


def find_peers(
    client: ApiClient, namespace: str, selector: str, changed: Callable[[list[str]], None]
) -> Reflector[str]:
    """Watches router pods of this installation, and tells their internal listeners' addresses."""

    def tell() -> None:
        changed(sorted(reflector.objects.values()))

    reflector: Reflector[str] = Reflector(client, f"/api/v1/namespaces/{namespace}/pods", selector, parse_router, tell)
    return reflector


def parse_router(item: dict[str, Any]) -> str | None:
    """Address of a router pod's internal listener; None for one that does not serve."""
    status = item.get("status", {})
    address = status.get("podIP")
    if not address or not is_ready(status):
        return None
    return format_address(address, labels.ROUTER_INTERNAL_PORT)
