"""What goes wrong in a run, besides slow and failed starts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """Planned faults.

    Attributes:
        kills: (time, role) of workers that die.
        blind_s: spans (from, until) in which the policy gets no data and so cannot act.
        flushes_s: moments at which the prefix cache is lost.
        prefill_error, decode_error: what policies and router believe over what is true; 1.2: they think the engine
            is a fifth slower than it is.
    """

    kills: tuple[tuple[float, str], ...] = ()
    blind_s: tuple[tuple[float, float], ...] = ()
    flushes_s: tuple[float, ...] = ()
    prefill_error: float = 1.0
    decode_error: float = 1.0

    def newest_data_s(self, now_s: float) -> float:
        """How new the data are that can be had now."""
        return next((low for low, high in self.blind_s if low <= now_s < high), now_s)
