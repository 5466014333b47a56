"""What one decode worker can do with requests of a mean length: how the peers size decode pools."""

from dataclasses import dataclass

from tandem_core.performance import MS_PER_S
from tandem_operator.autoscale.settings import Settings


@dataclass(frozen=True, slots=True)
class DecodeCapacity:
    """A full worker: its batch, and the seconds of one step."""

    batch: float
    step_s: float

    @property
    def tokens_per_s(self) -> float:
        """Answer tokens per second."""
        return self.batch / self.step_s


def decode_capacity(settings: Settings, mean_prompt: float, mean_output: float) -> DecodeCapacity:
    """The largest batch of mean requests that keeps TPOT, KV and slots."""
    model = settings.performance
    context = mean_prompt + mean_output / 2
    by_tpot = (settings.objectives.tpot_s * MS_PER_S - model.d0_ms) / max(1e-9, model.d1_ms + model.d2_ms * context)
    by_kv = settings.kv_capacity_tokens / max(1.0, mean_prompt + mean_output)
    batch = max(1.0, min(by_tpot, by_kv, settings.max_sequences))
    return DecodeCapacity(batch, model.decode_step_s(batch, batch * context))
