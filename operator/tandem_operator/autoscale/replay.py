"""Replay of recorded arrivals through a queue with `c` prefill workers: who would have missed the target?

The safe utilisation of a pool depends on its size and on the tail of the prompts: 0.05 for one worker on one trace,
0.98 for sixteen on another. No fixed target fits both, and no formula knows the burstiness of a fleet's own traffic;
its last minutes do.
"""

from collections.abc import Callable, Sequence
from heapq import heapreplace

from tandem_core.discipline import DeadlineQueue

# A prompt: when it came, seconds of prefill, its latest start, and its target (all one epoch). A plain tuple: a replay
# makes and reads tens of thousands.
Job = tuple[float, float, float, float]


def count_misses(jobs: Sequence[Job], workers: int, stop_above: int) -> int:
    """Prompts of `jobs` (sorted by arrival) that start too late on `workers` prefill workers.

    Counting ends once it exceeds `stop_above`: the caller only asks whether it does. One job a worker at a time: an
    engine that batches small prompts is a little faster, so this errs to the safe side.
    """
    if workers < 1:
        return len(jobs)
    free_at = [float("-inf")] * workers
    waiting: DeadlineQueue[Job] = DeadlineQueue()
    queued = misses = 0
    for job in jobs:
        arrival, service, latest, target = job
        if queued:
            misses += _serve_until(waiting, free_at, arrival)
            queued = len(waiting)
            if misses > stop_above:
                return misses
        if not queued and free_at[0] <= arrival:
            heapreplace(free_at, arrival + service)
        else:
            waiting.push(job, latest, target)
            queued += 1
    return misses + _serve_until(waiting, free_at, float("inf"))


def _serve_until(waiting: DeadlineQueue[Job], free_at: list[float], until_s: float) -> int:
    """Start waiting jobs on workers that come free by `until_s`; returns how many started too late."""
    misses = 0
    queued = len(waiting)
    while queued and free_at[0] <= until_s:
        start = free_at[0]
        _, service, latest, _ = waiting.pop(start)
        queued -= 1
        heapreplace(free_at, start + service)
        misses += latest < start
    return misses


def smallest_pool(jobs: Sequence[Job], miss_share: float, guess: int, least: int, most: int) -> int:
    """The fewest workers from `least` to `most` with which no more than `miss_share` of the jobs miss.

    Searches outward from `guess`, because one decision rarely differs much from the last: replays that fail end
    early, so a descent costs little more than the one replay that holds. `most` when not even that suffices.
    """
    least = max(1, least)
    if not jobs or most < 1:
        return 0
    if least >= most:
        return most
    allowed = int(miss_share * len(jobs))

    def suffices(workers: int) -> bool:
        return count_misses(jobs, workers, allowed) <= allowed

    low, high = _bracket(suffices, min(max(guess, least), most), least, most)
    while high - low > 1:
        middle = (low + high) // 2
        if suffices(middle):
            high = middle
        else:
            low = middle
    return high


def _bracket(suffices: Callable[[int], bool], guess: int, least: int, most: int) -> tuple[int, int]:
    """(too few, enough) around the answer, by doubling steps away from the guess. Fewer than `least` is too few."""
    step = 1
    if suffices(guess):
        enough = guess
        while enough > least:
            fewer = max(least, enough - step)
            if not suffices(fewer):
                return fewer, enough
            enough, step = fewer, step * 2
        return least - 1, least
    too_few = guess
    while too_few < most:
        more = min(most, too_few + step)
        if suffices(more):
            return too_few, more
        too_few, step = more, step * 2
    return most - 1, most
