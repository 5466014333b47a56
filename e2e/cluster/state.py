"""The record of one cluster: who made it, from which spec, and how far it got."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from cluster.places import RunFolder
from cluster.processes import ProcessId, is_alive, parse_process_id


@dataclass(frozen=True)
class State:
    """``phase`` is starting, ready or failed; ``owner`` is the process the cluster must not outlive, or empty."""

    provider: str
    phase: str
    spec: dict[str, Any]
    owner: str = ""

    def is_abandoned(self) -> bool:
        """True when the cluster had an owner and that process is gone."""
        owner: ProcessId | None = parse_process_id(self.owner)
        return owner is not None and not is_alive(owner)


def write_state(run: RunFolder, state: State) -> None:
    partial = run.state.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(state), indent=2))
    partial.rename(run.state)


def read_state(run: RunFolder) -> State | None:
    """None when there is no record, or none that this version understands."""
    try:
        return State(**json.loads(run.state.read_text()))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None
