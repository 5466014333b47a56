"""The digest as it goes over the wire. Everything in it is bounded: a peer may be old, broken or hostile."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

DIGESTS_PATH = "/internal/v1/digests"
MAX_WORKERS = 20_000
MAX_INSERTS = 2048  # block hashes in one digest

Text = Annotated[str, Field(max_length=512)]
Count = Annotated[int, Field(ge=0, le=10_000_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=3600)]
Hash = Annotated[int, Field(ge=0, lt=1 << 64)]
Hashes = Annotated[list[Hash], Field(max_length=MAX_INSERTS)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Load(_Message):
    """What the sender has on one worker.

    Attributes:
        running, tokens: its requests there, and their prompt tokens not known to be done.
        beyond: of these, how many run beyond its own slots.
        wants: slots beyond its own that it would use.
    """

    running: Count = 0
    tokens: Count = 0
    beyond: Count = 0
    wants: Count = 0


class Sighting(_Message):
    """A worker's state as the sender has read it, `age_s` ago."""

    age_s: Seconds
    instance: Text
    ready: bool
    draining: bool
    running: Count = 0
    waiting: Count = 0
    kv_usage: Share = 0.0
    circuits_open: Annotated[tuple[Text, ...], Field(max_length=64)] = ()


class FleetLevel(_Message):
    """How full one fleet is, as the sender sees it.

    Attributes:
        queued, queued_tokens: what waits at the sender.
        waiting_decode: of these, requests that wait for a decode worker only.
        predicted_ttft_s: of a typical prompt that would come there now; None: nothing is learned.
    """

    queued: Count = 0
    queued_tokens: Count = 0
    waiting_decode: Count = 0
    predicted_ttft_s: Seconds | None = None


class Digest(_Message):
    """From one replica to another.

    Attributes:
        sender: address of its internal listener, which is its name.
        epoch: new at each start of the process.
        tick: rises with every digest of an epoch.
        heard: the newest tick of the receiver that the sender has seen, of `heard_epoch`.
        draining: it takes no more requests.
        loads, sightings: by uid of the worker.
        lent: slots that the receiver may use beyond its own, by uid of the worker.
        inserts: block hashes that a worker (by uid) has newly cached.
    """

    sender: Text
    epoch: Text
    tick: Count
    heard: Count = 0
    heard_epoch: Text = ""
    draining: bool = False
    loads: Annotated[dict[Text, Load], Field(max_length=MAX_WORKERS)] = {}
    sightings: Annotated[dict[Text, Sighting], Field(max_length=MAX_WORKERS)] = {}
    lent: Annotated[dict[Text, Count], Field(max_length=MAX_WORKERS)] = {}
    inserts: Annotated[
        dict[Text, Annotated[list[Hash], Field(max_length=MAX_INSERTS)]], Field(max_length=MAX_INSERTS)
    ] = {}
    fleets: Annotated[dict[Text, FleetLevel], Field(max_length=MAX_WORKERS)] = {}
