"""States of one container, as values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from cluster.process_node.objects import JsonObject, from_rfc3339, to_rfc3339

NODE_RESTARTED_EXIT_CODE = 137


@dataclass(frozen=True)
class Waiting:
    reason: str
    message: str = ""

    def to_json(self) -> JsonObject:
        return {"waiting": {"reason": self.reason, **({"message": self.message} if self.message else {})}}


@dataclass(frozen=True)
class Running:
    started_at: datetime

    def to_json(self) -> JsonObject:
        return {"running": {"startedAt": to_rfc3339(self.started_at)}}


@dataclass(frozen=True)
class Terminated:
    """exit_code is 128 + signal for a process that a signal ended."""

    exit_code: int
    reason: str
    started_at: datetime
    finished_at: datetime
    container_id: str = ""
    signal: int = 0
    message: str = ""

    def to_json(self) -> JsonObject:
        value: JsonObject = {
            "exitCode": self.exit_code,
            "reason": self.reason,
            "startedAt": to_rfc3339(self.started_at),
            "finishedAt": to_rfc3339(self.finished_at),
            "containerID": self.container_id,
            "signal": self.signal,
            "message": self.message,
        }
        return {"terminated": {k: v for k, v in value.items() if v or k == "exitCode"}}


State = Waiting | Running | Terminated


@dataclass(frozen=True)
class ContainerSnapshot:
    """All that a pod's status says about one container."""

    name: str
    image: str
    state: State
    last: Terminated | None = None
    restart_count: int = 0
    ready: bool = False
    started: bool = False
    container_id: str = ""

    def to_json(self) -> JsonObject:
        return {
            "name": self.name,
            "image": self.image,
            "imageID": f"process://{self.image}" if self.container_id else "",
            "state": self.state.to_json(),
            "lastState": self.last.to_json() if self.last else {},
            "restartCount": self.restart_count,
            "ready": self.ready,
            "started": self.started,
            **({"containerID": self.container_id} if self.container_id else {}),
        }


def recovered_snapshot(status: JsonObject, fresh: ContainerSnapshot, now: datetime) -> ContainerSnapshot:
    """What an earlier run of this node reported about a container, given that all its processes are gone."""
    known = replace(
        fresh,
        restart_count=status.get("restartCount", 0),
        last=_parse_terminated((status.get("lastState") or {}).get("terminated")),
        container_id=status.get("containerID", ""),
    )
    state = status.get("state") or {}
    ended = _parse_terminated(state.get("terminated")) or _ended_with_node(status, state, now)
    return replace(known, state=ended) if ended else known


def _ended_with_node(status: JsonObject, state: JsonObject, now: datetime) -> Terminated | None:
    if "running" not in state:
        return None
    return Terminated(
        exit_code=NODE_RESTARTED_EXIT_CODE,
        reason="ContainerStatusUnknown",
        message="the process node ended while this container was running",
        started_at=from_rfc3339(state["running"]["startedAt"]),
        finished_at=now,
        container_id=status.get("containerID", ""),
    )


def _parse_terminated(value: JsonObject | None) -> Terminated | None:
    if not value:
        return None
    return Terminated(
        exit_code=value["exitCode"],
        reason=value.get("reason", ""),
        started_at=from_rfc3339(value["startedAt"]),
        finished_at=from_rfc3339(value["finishedAt"]),
        container_id=value.get("containerID", ""),
        signal=value.get("signal", 0),
        message=value.get("message", ""),
    )
