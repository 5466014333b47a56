"""What the router must know of an API to carry its requests: what may be split, what is counted, how a stream ends."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem_router.apis.fault_shapes import OPENAI, FaultShape

Fields = Mapping[str, Any]  # a parsed JSON object
Check = Callable[[str, object], None]  # raises BadRequestError for a field that may not be so


@dataclass(frozen=True, slots=True)
class StreamShape:
    """How a stream of server-sent events is read on its way.

    Attributes:
        ends: beginnings of the line that marks the last event; one of them.
        error: beginning of the line that marks the engine's own error.
        adds_usage: usage comes only when asked for with `stream_options.include_usage`, as an event of its own.
        read_usage: token counts in an event's data, in the shape of chat completions, or None.
    """

    ends: tuple[bytes, ...]
    error: bytes
    adds_usage: bool
    read_usage: Callable[[Fields], dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Api:
    """One path that clients POST to.

    Attributes:
        checks: by field, what the router itself refuses or must be able to read.
        prefill_limits: what the prefill leg sets so that it yields one token.
        whole_reason: why prefill and decode must stay on one worker (DESIGN §10), None if they may part.
        prompt: the text by which two requests are known to share a prefix.
        read_usage: token counts of a whole answer, in the shape of chat completions.
        operation: what OpenTelemetry's GenAI conventions call it (`gen_ai.operation.name`).
        continues: a broken stream can be gone on with elsewhere from its tokens.
    """

    path: str
    checks: Mapping[str, Check]
    prefill_limits: Fields
    whole_reason: Callable[[Fields], str | None]
    prompt: Callable[[Fields], bytes]
    read_usage: Callable[[Fields], dict[str, Any] | None]
    stream: StreamShape
    operation: str
    faults: FaultShape = field(default=OPENAI)
    continues: bool = False

    @property
    def target(self) -> bytes:
        """The path as it goes on the wire."""
        return self.path.encode()
