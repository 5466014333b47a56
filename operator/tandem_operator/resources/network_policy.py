"""NetworkPolicy around the workers of a fleet: routers come in, KV moves inside, and only what must leave does."""

from typing import Any

from tandem_api import labels
from tandem_operator.kinds import NETWORK_POLICY, Manifest
from tandem_operator.model import Fleet
from tandem_operator.resources.metadata import build_metadata, build_selector, owned_by_fleet
from tandem_operator.resources.names import policy_name
from tandem_operator.resources.weights import list_egress_ports

_DNS = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
_ANY_TCP = [{"protocol": "TCP"}]  # NCCL's ports are ephemeral


def build_network_policy(fleet: Fleet, router_namespace: str, monitoring_namespace: str | None) -> Manifest:
    """Denies everything that it does not list, in both directions."""
    sources = list_egress_ports(fleet.spec)
    scrapers = [_scrapers(monitoring_namespace)] if monitoring_namespace else []
    return {
        "apiVersion": NETWORK_POLICY.api_version,
        "kind": NETWORK_POLICY.name,
        "metadata": build_metadata(fleet, policy_name(fleet.key.name), owned_by_fleet(fleet)),
        "spec": {
            "podSelector": {"matchLabels": build_selector(fleet)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [_routers(router_namespace)], "ports": _tcp(labels.HTTP_PORT, labels.ADMIN_PORT)},
                {"from": [_peers(fleet)], "ports": _ANY_TCP},
                *scrapers,
            ],
            "egress": [
                {"ports": _DNS},
                {"to": [_peers(fleet)], "ports": _ANY_TCP},
                *([{"ports": _tcp(*sources)}] if sources else []),
            ],
        },
    }


def _routers(namespace: str) -> dict[str, Any]:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {labels.COMPONENT: labels.ROUTER_COMPONENT}},
    }


def _scrapers(namespace: str) -> dict[str, Any]:
    """Prometheus reads metrics on the admin port; what changes anything there asks for the fleet's key."""
    return {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}],
        "ports": _tcp(labels.ADMIN_PORT),
    }


def _peers(fleet: Fleet) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": build_selector(fleet)}}


def _tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]
