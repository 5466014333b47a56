"""What one worker of each role is, for the simulation."""

from dataclasses import dataclass

from tandem_core.performance import PerformanceModel


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """The truth that the simulated hardware obeys. What policies believe may differ.

    Attributes:
        model: speed.
        kv_capacity_tokens: KV cache of a decode worker.
        max_sequences: decode slots.
        kv_bytes_per_token: what a transfer moves.
        transfer_base_s, transfer_bytes_per_s: hand-over from prefill to decode.
    """

    model: PerformanceModel
    kv_capacity_tokens: int
    max_sequences: int
    kv_bytes_per_token: int
    transfer_base_s: float = 0.005
    transfer_bytes_per_s: float = 20e9

    @property
    def transfer_per_token_s(self) -> float:
        """Seconds per prompt token."""
        return self.kv_bytes_per_token / self.transfer_bytes_per_s

    def transfer_s(self, prompt_tokens: int) -> float:
        """Seconds to move the KV of a prompt."""
        return self.transfer_base_s + prompt_tokens * self.transfer_per_token_s
