"""One region's users: what they ask for, wherever it is served, as their routers count it."""

from dataclasses import replace
from typing import Any

import numpy as np

from tandem_operator.autoscale.decision import Decision
from tandem_operator.autoscale.observation import ALONE, FromRegions, Observation, PoolState
from tandem_operator.autoscale.settings import Settings
from tandem_simulator.journal import Ended, empty_journal
from tandem_simulator.meters import PoolView, View
from tandem_simulator.policies.tandem import TandemPolicy
from tandem_simulator.pool import Pool
from tandem_simulator.traffic.model import Ints
from tandem_simulator.workload import Workload, prefill_steps


class Origin:
    """Levels and endings of the requests that come here (`numbers`, ascending).

    Attributes:
        workload: these requests alone.
        journal: of it only the endings are kept.
    """

    def __init__(self, workload: Workload, numbers: Ints) -> None:
        self.workload, self.journal = workload.only(numbers), empty_journal(0)
        self._local = {number: place for place, number in enumerate(numbers.tolist())}
        self._steps = prefill_steps(self.workload.new, 8192).tolist()
        self._queued: set[int] = set()
        self._held: set[int] = set()

    def arrive(self, number: int) -> None:
        """A request has come, and waits for prefill somewhere."""
        self._queued.add(self._local[number])

    def prefilled(self, number: int) -> None:
        """It is decode's from now on; one that is prefilled again after a loss has been so before."""
        self._queued.discard(self._local[number])
        self._held.add(self._local[number])

    def end(self, ended: Ended) -> None:
        """It is over."""
        place = self._local[ended.request]
        self._queued.discard(place)
        self._held.discard(place)
        self.journal.ended.append(ended._replace(request=place))

    def view(self, now_s: float, prefill: PoolView, decode: PoolView) -> View:
        """What the routers of this region tell, beside the pools that stand here."""
        work, trace = self.workload, self.workload.trace
        waiting, held = list(self._queued), list(self._held)
        return View(
            now_s=now_s,
            newest_s=now_s,
            prefill=prefill,
            decode=decode,
            sequences=len(held),
            kv_tokens=float((trace.input_tokens[held] + trace.output_tokens[held]).sum()),
            decode_tokens_per_s=0.0,
            queued_steps=float(sum(self._steps[place] for place in waiting)),
            queued_tokens=float(work.new[waiting].sum()),
            queued_square=float(work.square[waiting].sum()),
            predicted_ttft_s=0.0,
            tpot_s=0.0,
        )


class RegionPolicy(TandemPolicy):
    """The autoscaler of one region: as of one fleet, with the words of the others, and pods that find no GPU.

    Attributes:
        regions: what the other regions mean here.
        without_gpus_s: for how long pods have found none.
    """

    def __init__(self, settings: Settings, origin: Origin, startup_s: float) -> None:
        super().__init__(settings, origin.workload, origin.journal, startup_s)
        self.regions: FromRegions = ALONE
        self.without_gpus_s = 0.0

    @property
    def decision(self) -> Decision:
        """The last one."""
        return self._decisions[-1]

    def _observe(self, view: View) -> Observation:
        seen = super()._observe(view)
        return replace(
            seen,
            regions=self.regions,
            prefill=self._with_pending(seen.prefill, view.prefill),
            decode=self._with_pending(seen.decode, view.decode),
        )

    def _with_pending(self, state: PoolState, pool: PoolView) -> PoolState:
        pending = max(0, pool.desired - pool.ready - pool.starting)
        return replace(state, pending_gpu=pending, pending_gpu_s=self.without_gpus_s if pending else 0.0)


def view_pool(pool: Pool[Any]) -> PoolView:
    """Its counts; of usage nothing is told, because Tandem does not look at it."""
    return PoolView(pool.desired, len(pool.ready), len(pool.starting), 0.0, 0, pool.last_startup_s)


def numbers_of(origins: Ints, region: int) -> Ints:
    """The requests whose users are in a region."""
    return np.flatnonzero(origins == region)
