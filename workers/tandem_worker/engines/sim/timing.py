"""How long things take: the performance model of DESIGN §11. Pure; milliseconds and tokens."""

from tandem_worker.engines.sim.settings import SimSettings


def prefill_ms(settings: SimSettings, new_tokens: int) -> float:
    """p0 + p1·n + p2·n² for a step that computes `new_tokens` prompt tokens; 0 for none."""
    if new_tokens == 0:
        return 0.0
    linear = settings.prefill_token_ms * new_tokens
    return settings.prefill_base_ms + linear + settings.prefill_square_ms * new_tokens**2


def decode_ms(settings: SimSettings, sequences: int, context_tokens: int) -> float:
    """d0 + d1·b + d2·K for a step that makes one token for each of b sequences with K tokens of context; 0 for none."""
    if sequences == 0:
        return 0.0
    per_sequence = settings.decode_sequence_ms * sequences
    return settings.decode_base_ms + per_sequence + settings.decode_context_ms * context_tokens


def transfer_ms(settings: SimSettings, tokens: int) -> float:
    """Time to move the KV of `tokens` tokens."""
    return tokens * settings.kv_token_bytes / settings.kv_bytes_per_ms
