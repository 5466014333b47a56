"""Service-account tokens by TokenRequest, bound to their pod and renewed at 80 % of their life."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.process_node.api import ApiClient
from cluster.process_node.objects import JsonObject, from_rfc3339, pod_name, pod_namespace, pod_uid

RENEW_AT_SHARE = 0.8
LONGEST_USE_S = 24 * 3600.0
_TokenKey = tuple[str, str, int]


@dataclass(frozen=True)
class Token:
    text: str
    renew_at_s: float


class TokenSource:
    """One per pod. `now_s` is Unix time: it is compared with the server's expiry."""

    def __init__(self, api: ApiClient, now_s: Callable[[], float]) -> None:
        self._api = api
        self._now_s = now_s
        self._tokens: dict[_TokenKey, Token] = {}

    async def fetch(self, pod: JsonObject, source: JsonObject) -> str:
        """The token for one serviceAccountToken source. Raises ApiError, ApiUnreachableError.

        When a renewal fails, the old token goes on as long as it is valid for the server.
        """
        key = (source.get("audience", ""), source.get("path", ""), int(source.get("expirationSeconds") or 3600))
        held = self._tokens.get(key)
        if held is None or self._now_s() >= held.renew_at_s:
            held = self._tokens[key] = await self._request(pod, key)
        return held.text

    async def _request(self, pod: JsonObject, key: _TokenKey) -> Token:
        account = pod["spec"].get("serviceAccountName") or "default"
        asked_at_s = self._now_s()
        answer = await self._api.create(
            f"/api/v1/namespaces/{pod_namespace(pod)}/serviceaccounts/{account}/token",
            build_token_request(pod, audience=key[0], expiration_s=key[2]),
        )
        expires_at_s = from_rfc3339(answer["status"]["expirationTimestamp"]).timestamp()
        return Token(answer["status"]["token"], renewal_time_s(asked_at_s, expires_at_s))


def build_token_request(pod: JsonObject, audience: str, expiration_s: int) -> JsonObject:
    bound = {"kind": "Pod", "apiVersion": "v1", "name": pod_name(pod), "uid": pod_uid(pod)}
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": [audience] if audience else [],
            "expirationSeconds": expiration_s,
            "boundObjectRef": bound,
        },
    }


def renewal_time_s(asked_at_s: float, expires_at_s: float) -> float:
    """80 % of the life, and at most a day, after the request: the kubelet's rule."""
    return asked_at_s + min(RENEW_AT_SHARE * (expires_at_s - asked_at_s), LONGEST_USE_S)
