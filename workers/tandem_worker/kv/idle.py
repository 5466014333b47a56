"""An engine that does nothing but keep leases must not keep a core busy with it."""

import time

STEP_PAUSE_S = 0.005  # what a request that comes meanwhile may wait, at most


def pause_when_nothing_runs(scheduled_tokens: int) -> None:
    """Called once per step of a prefill engine. While somebody's blocks are kept, vLLM steps without end, with a pause
    of 1 ms after a step that computed nothing: a third of a core for hearing when the lease ends.
    """
    if scheduled_tokens == 0:
        time.sleep(STEP_PAUSE_S)
