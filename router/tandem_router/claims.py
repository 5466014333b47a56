"""A request's claims on workers. What a claim adds it takes away, once: counters can neither leak nor go negative."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tandem_router.fleets import Worker


class Claim:
    """One request on one worker."""

    __slots__ = ("_held", "_on_release", "tokens", "worker")

    def __init__(self, worker: "Worker", tokens: int, on_release: Callable[[], None]) -> None:
        self.worker = worker
        self.tokens = tokens
        self._on_release = on_release
        self._held = True
        worker.claimed += 1
        worker.claimed_tokens += tokens
        worker.ejection.note_given()

    def release(self) -> None:
        """The request has left the worker; more than once does nothing more."""
        if not self._held:
            return
        self._held = False
        self.worker.claimed -= 1
        self.worker.claimed_tokens -= self.tokens
        self.worker.ejection.note_unknown()  # does nothing where the leg's end has told
        self._on_release()


class Placement:
    """Where a request runs. `prefill` None: the decode worker does it all, for `reason`."""

    __slots__ = ("decode", "prefill", "reason", "revision")

    def __init__(self, revision: str, decode: Claim, prefill: Claim | None, reason: str) -> None:
        self.revision = revision
        self.decode = decode
        self.prefill = prefill
        self.reason = reason

    @property
    def served_by(self) -> str:
        """Names of the workers: `<prefill>,<decode>`, or `<decode>`."""
        decode = self.decode.worker.name
        return decode if self.prefill is None else f"{self.prefill.worker.name},{decode}"

    def replace_prefill(self, claim: Claim | None, reason: str) -> None:
        """Another prefill worker, or none, in the place of one that failed."""
        if self.prefill is not None:
            self.prefill.release()
        self.prefill, self.reason = claim, reason

    def release(self) -> None:
        """Give back what is still held."""
        if self.prefill is not None:
            self.prefill.release()
        self.decode.release()
