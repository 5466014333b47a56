"""Token counts as each API writes them, read into one shape: that of chat completions."""

from typing import Any

from tandem_router.apis.shape import Fields


def read_completion_usage(fields: Fields) -> dict[str, Any] | None:
    """`usage` of chat completions, completions and embeddings."""
    usage = fields.get("usage")
    return usage if isinstance(usage, dict) else None


def read_responses_usage(fields: Fields) -> dict[str, Any] | None:
    """`usage` of a response, or of the response inside an event."""
    usage = read_completion_usage(fields.get("response") or fields)
    if usage is None:
        return None
    details = usage.get("input_tokens_details")
    return {
        "prompt_tokens": usage.get("input_tokens"),
        "completion_tokens": usage.get("output_tokens"),
        "prompt_tokens_details": details if isinstance(details, dict) else {},
    }


def read_messages_usage(fields: Fields) -> dict[str, Any] | None:
    """`usage` of a message or of `message_delta`. Anthropic counts what was cached apart from `input_tokens`."""
    usage = read_completion_usage(fields)
    if usage is None:
        return None
    cached = _count(usage.get("cache_read_input_tokens"))
    parts = (usage.get("input_tokens"), usage.get("cache_creation_input_tokens"))
    return {
        "prompt_tokens": cached + sum(map(_count, parts)),
        "completion_tokens": usage.get("output_tokens"),
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
