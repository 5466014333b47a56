"""What the sim engine breaks on purpose, set over HTTP: `POST /sim/faults {"kind": "cut", "after_tokens": 3}`."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

FAULTS_PATH = "/sim/faults"


class FaultKind(StrEnum):
    """How a request goes wrong."""

    REFUSE = "refuse"  # the connection closes without an answer
    HANG = "hang"  # no answer, ever
    UNAVAILABLE = "unavailable"  # a 503 from the engine itself
    GARBAGE = "garbage"  # an answer that is not what was asked for
    SLOW = "slow"  # everything takes `factor` times as long
    CUT = "cut"  # the connection closes after `after_tokens` tokens
    STALL = "stall"  # the stream stays open and silent after `after_tokens` tokens
    CRASH = "crash"  # the whole worker ends after `after_tokens` tokens
    KV_REFUSE = "kv_refuse"  # pulls from this worker are refused


class Fault(BaseModel):
    """`kind` None: nothing is broken. `requests`: how many more requests suffer; None: all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FaultKind | None = None
    requests: int | None = Field(default=None, ge=1)
    after_tokens: int = Field(default=1, ge=0)
    factor: float = Field(default=10.0, gt=0)


class FaultSwitch:
    """The fault that is set now, and how many requests are left to it."""

    def __init__(self) -> None:
        self.fault = Fault()

    def strike(self, *kinds: FaultKind) -> Fault | None:
        """The fault that hits this request, when it is one of `kinds`; each strike uses one request up."""
        fault = self.fault
        if fault.kind not in kinds:
            return None
        if fault.requests is not None:
            left = fault.requests - 1
            self.fault = fault.model_copy(update={"requests": left}) if left else Fault()
        return fault
