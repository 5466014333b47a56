"""The few calls to the API server that bringing a cluster up needs."""

from __future__ import annotations

import ssl
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import httpx
import yaml


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
        """The object or list at ``path``; None for 404."""
        answer = self._http.get(path)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        answer.raise_for_status()
        return dict(answer.json())

    def create(self, path: str, manifest: dict[str, Any]) -> None:
        self._http.post(path, json=manifest).raise_for_status()


def connect(kubeconfig: Path, ca: Path) -> ApiClient:
    """A client from one of our own kubeconfigs (a server and a token)."""
    config = yaml.safe_load(kubeconfig.read_text())
    return ApiClient(config["clusters"][0]["cluster"]["server"], ca, config["users"][0]["user"]["token"])
