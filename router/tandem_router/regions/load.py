"""What a region tells of one fleet, and what a request would meet there."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FleetLoad:
    """One fleet in one region, as its routers see it together.

    Attributes:
        queued_tokens: prompt tokens that wait or are being prefilled.
        idle_workers: workers that could begin a prompt at once.
        prefill_workers: workers that prefill (of role prefill, else mixed) and are ready.
        worker_tokens_per_s: what one of them prefills, learned.
        free_slots: requests that decode workers can take at once within their objective.
        waiting_decode: requests whose prompt is prefilled and that no decode worker can take yet.
    """

    queued_tokens: float = 0.0
    prefill_workers: int = 0
    worker_tokens_per_s: float = 0.0
    free_slots: int = 0
    idle_workers: int = 0
    waiting_decode: int = 0

    @property
    def can_serve(self) -> bool:
        """There is anybody at all."""
        return self.prefill_workers > 0 and self.worker_tokens_per_s > 0.0

    def predicted_ttft_s(self, new_tokens: float, sent_tokens: float = 0.0, sent: int = 0) -> float:
        """Seconds to the first token of a prompt with `new_tokens` to compute; infinite where nobody can serve.

        What waits is shared by all workers, the prompt itself is computed by one: (queued + sent) / (workers · rate)
        + new / rate. An idle worker makes nobody wait; without that, the smaller of two regions would look the better
        one too often, because its load varies more. `sent` requests of `sent_tokens` went there since it told its load.
        """
        if not self.can_serve:
            return float("inf")
        rate = self.worker_tokens_per_s
        if self.idle_workers > sent:
            return new_tokens / rate
        return (self.queued_tokens + sent_tokens) / (self.prefill_workers * rate) + new_tokens / rate

    def has_room(self, sent: int = 0) -> bool:
        """One more request finds a decode slot, after `sent` that went there since."""
        return self.can_serve and self.free_slots - self.waiting_decode - sent > 0
