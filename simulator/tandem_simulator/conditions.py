"""Everything about a run but the policy."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from tandem_simulator.engine.spec import EngineSpec
from tandem_simulator.events import Agenda
from tandem_simulator.faults import Faults
from tandem_simulator.journal import Journal
from tandem_simulator.meters import View
from tandem_simulator.pool import Startup
from tandem_simulator.workload import Workload


@dataclass(frozen=True, slots=True)
class Sizes:
    """Workers per role."""

    prefill: int
    decode: int


class Policy(Protocol):
    """Who decides sizes. Called every `interval_s`; one that `sees_staleness` also while there is no new data."""

    name: str
    interval_s: float
    sees_staleness: bool

    def decide(self, view: View) -> Sizes:
        """Sizes to ask for now."""

    def explain(self) -> list[dict[str, Any]]:
        """Its decisions, for the report; may be empty."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """One world for every policy.

    Attributes:
        initial: workers that are ready at time zero.
        unscored_s: requests that come before this are served, not scored.
        acts_from_s: the policy acts from here on.
        tpot_s, drain_s: objective per token; longest drain.
        give_up_after: stop once that many requests have missed: a search need not see the rest. None: never.
        seed: of start-up times and faults.
    """

    spec: EngineSpec
    startup: Startup
    initial: Sizes
    tpot_s: float
    unscored_s: float = 0.0
    acts_from_s: float = 0.0
    drain_s: float = 600.0
    give_up_after: int | None = None
    seed: int = 0
    faults: Faults = field(default_factory=Faults)


@dataclass(frozen=True, slots=True)
class Scene:
    """What the stages of one run share."""

    workload: Workload
    conditions: Conditions
    agenda: Agenda
    journal: Journal
    rng: np.random.Generator
