"""The few calls to the API server that bringing a cluster up needs."""

from __future__ import annotations

import ssl
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from cluster.errors import ClusterError


class ApiClient(AbstractContextManager["ApiClient"]):
    """Talks to one API server, never through a proxy."""

    def __init__(self, url: str, ca: Path, token: str) -> None:
        self._http = httpx.Client(
            base_url=url,
            verify=ssl.create_default_context(cafile=str(ca)),
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=5.0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def is_ready(self) -> bool:
        """``/readyz`` answers 200; False while nobody listens."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def fetch(self, path: str) -> dict[str, Any] | None:
        """The object or list at ``path``; None while there is none, or no answer yet: ask again."""
        try:
            answer = self._http.get(path)
        except httpx.TransportError:
            return None
        return dict(answer.json()) if answer.is_success else None

    def create(self, path: str, manifest: dict[str, Any]) -> None:
        """Raises ClusterError with the API server's reason."""
        try:
            answer = self._http.post(path, json=manifest)
        except httpx.TransportError as error:
            raise ClusterError(f"the API server did not take {path}: {error}", "try again") from error
        if answer.is_error:
            raise ClusterError(f"the API server refused {path}: {answer.text}", "mend what it names")


def connect(kubeconfig: Path, ca: Path) -> ApiClient:
    """A client from one of our own kubeconfigs (a server and a token)."""
    config = yaml.safe_load(kubeconfig.read_text())
    return ApiClient(config["clusters"][0]["cluster"]["server"], ca, config["users"][0]["user"]["token"])
