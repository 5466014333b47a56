"""What the API server's audit log says that the operator asked for."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from integration.operator.conftest import ACCOUNT, Installation

WRITES = ("create", "update", "patch", "delete")


@dataclass(frozen=True, order=True)
class Asked:
    """One kind of request, as RBAC names it. `code` 201 on a patch is a server-side apply that made the object."""

    verb: str
    resource: str  # with its subresource
    group: str = ""
    namespace: str = ""
    name: str = ""
    code: int = 0

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


@dataclass
class AuditLog:
    """The requests of one installation's operator, from a mark on."""

    path: Path
    user: str
    fleets: str  # the namespace that is served
    position: int = 0

    def mark(self) -> None:
        """Forgets what was asked so far."""
        self.position = self.path.stat().st_size

    def read(self) -> list[Asked]:
        """All requests since the mark, answered ones and watches that have begun."""
        with self.path.open("rb") as file:
            file.seek(self.position)
            lines = [line for line in file.read().split(b"\n") if line.startswith(b"{") and line.endswith(b"}")]
        entries = (json.loads(line) for line in lines if self.user.encode() in line)
        return [parse(entry) for entry in entries if entry["user"]["username"] == self.user and is_counted(entry)]

    def writes(self) -> Counter[str]:
        """Changes of a fleet, its children and its Events since the mark."""
        return Counter(str(asked) for asked in self.read() if asked.is_write and asked.namespace == self.fleets)

    def wait_quiet(self, quiet_s: float = 1.5, timeout_s: float = 30.0) -> Counter[str]:
        """The changes since the mark, once none was added for a while."""
        deadline = time.monotonic() + timeout_s
        seen, since = self.writes(), time.monotonic()
        while time.monotonic() - since < quiet_s and time.monotonic() < deadline:
            time.sleep(0.2)
            now = self.writes()
            if now != seen:
                seen, since = now, time.monotonic()
        return seen


def is_counted(entry: dict[str, object]) -> bool:
    """A watch counts when it begins, everything else when it is answered."""
    return entry["stage"] == ("ResponseStarted" if entry["verb"] == "watch" else "ResponseComplete")


def parse(entry: dict[str, dict[str, object]]) -> Asked:
    about = {name: str(value) for name, value in entry.get("objectRef", {}).items()}
    resource = "/".join(filter(None, (about.get("resource"), about.get("subresource"))))
    code = entry.get("responseStatus", {}).get("code", 0)
    assert isinstance(code, int)
    place = (about.get("apiGroup", ""), about.get("namespace", ""), about.get("name", ""))
    return Asked(str(entry["verb"]), resource, *place, code)


def open_audit_log(installation: Installation) -> AuditLog:
    """The log of the cluster, as far as it is about this installation's operator."""
    user = f"system:serviceaccount:{installation.home}:{ACCOUNT}"
    log = AuditLog(installation.cluster.audit_log, user, installation.namespace)
    log.mark()
    return log
