"""Control messages: JSON in frames of a four-byte length. Every field is bounded; a peer's word is never trusted."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tandem_worker.kv.keys import Signer

PROTOCOL = 1
PROTOCOLS_SPOKEN = frozenset({1})
MAX_FRAME_BYTES = 8 << 20
_LENGTH_BYTES = 4

Name = Annotated[str, Field(max_length=512)]
Hex = Annotated[str, Field(max_length=128, pattern=r"^[0-9a-f]*$")]
TransferId = Annotated[int, Field(ge=0, lt=1 << 63)]


class WireError(ValueError):
    """A peer sent something that is not this protocol."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class _Proven(_Message):
    """Covered by a mac, so that what a later release adds must be kept, or the mac would not fit."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class GroupShape(_Message):
    """Layers that are allocated together, and what one head of one token costs, before tensor parallelism."""

    layers: list[Name] = Field(min_length=1, max_length=2048)
    page_tokens: int = Field(ge=1)
    head_bytes_per_token: int = Field(ge=1)
    kv_heads: int = Field(ge=1)


class Engine(_Proven):
    """All that must agree for KV of one engine to be KV of another, and who this engine is."""

    engine_id: Name  # new with every start: a restarted engine is another engine
    fleet: Name
    kv_revision: Name
    engine_version: Name
    model: Name
    dtype: Name
    cache_dtype: Name
    layout: Name
    block_size: int = Field(ge=1)
    groups: list[GroupShape] = Field(min_length=1, max_length=64)
    tp_size: int = Field(ge=1, le=1024)
    tp_rank: int = Field(ge=0, lt=1024)
    transport: Name  # asked for; what is used is in the welcome
    nccl_version: Name = ""  # empty: nccl cannot be used here,
    nccl_missing: Name = ""  # for this reason
    chunk_bytes: int = Field(ge=1)


class Greeting(_Message):
    """Prefill, on accepting a control connection."""

    type: Literal["greeting"] = "greeting"
    protocol: int
    nonce: Hex


class Hello(_Proven):
    """Decode. `mac` covers the greeting's nonce and the whole message."""

    type: Literal["hello"] = "hello"
    protocol: int
    nonce: Hex
    engine: Engine
    mac: Hex = ""


class Welcome(_Proven):
    """Prefill accepts: over `transport`, whose data go to `endpoint`; `mac` covers the hello's nonce."""

    type: Literal["welcome"] = "welcome"
    engine: Engine
    transport: Name
    chunk_bytes: int = Field(ge=1)
    endpoint: dict[str, str] = Field(max_length=16)
    mac: Hex = ""


class Refuse(_Message):
    """Prefill will not talk to this peer."""

    type: Literal["refuse"] = "refuse"
    reason: Name
    detail: Annotated[str, Field(max_length=2048)] = ""


class Attached(_Message):
    """Prefill: the data path of this session is up."""

    type: Literal["attached"] = "attached"


class Pull(_Message):
    """Decode wants `blocks` (ids per group, in request order) and of each group `heads` (first, count)."""

    type: Literal["pull"] = "pull"
    transfer: TransferId
    ticket: dict[str, Any]
    blocks: list[list[int]] = Field(max_length=64)
    heads: list[tuple[int, int]] = Field(max_length=64)


class Ready(_Message):
    """Prefill holds the blocks and begins to send."""

    type: Literal["ready"] = "ready"
    transfer: TransferId


class Reject(_Message):
    """Prefill will not, or can no longer, serve this transfer."""

    type: Literal["reject"] = "reject"
    transfer: TransferId
    reason: Name
    detail: Annotated[str, Field(max_length=2048)] = ""


class Release(_Message):
    """Decode rank needs nothing more of this ticket."""

    type: Literal["release"] = "release"
    ticket: dict[str, Any]


class Ping(_Message):
    """Decode is alive, and still waits to pull `renew` (request ids of the prefill engine)."""

    type: Literal["ping"] = "ping"
    renew: list[Name] = Field(default=[], max_length=65536)


class Pong(_Message):
    """Prefill is alive."""

    type: Literal["pong"] = "pong"


Message = Greeting | Hello | Welcome | Refuse | Attached | Pull | Ready | Reject | Release | Ping | Pong
_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def encode_frame(message: Message) -> bytes:
    """Raises WireError when the message is too long for a peer to accept."""
    body = message.model_dump_json().encode()
    if len(body) > MAX_FRAME_BYTES:
        raise WireError(f"a {message.type} message of {len(body)} bytes exceeds {MAX_FRAME_BYTES}")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def decode_message(body: bytes) -> Message:
    """Raises WireError."""
    try:
        return _ADAPTER.validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise WireError(f"malformed message: {first['loc']}: {first['msg']}") from error


class FrameReader:
    """Bytes in, whole messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Raises WireError on an oversized frame or a message that does not parse."""
        self._buffer += data
        messages: list[Message] = []
        while (body := self._take()) is not None:
            messages.append(decode_message(body))
        return messages

    def _take(self) -> bytes | None:
        if len(self._buffer) < _LENGTH_BYTES:
            return None
        end = _LENGTH_BYTES + int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
        if end > MAX_FRAME_BYTES + _LENGTH_BYTES:
            raise WireError(f"a frame of {end - _LENGTH_BYTES} bytes exceeds {MAX_FRAME_BYTES}")
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH_BYTES:end])
        del self._buffer[:end]
        return body


def seal_hello(hello: Hello, greeting_nonce: str, signer: Signer) -> Hello:
    """With the mac that proves the fleet's key to this very greeting."""
    whole = Hello.model_validate_json(hello.model_dump_json())  # with every field set, as the peer will read it
    return whole.model_copy(update={"mac": signer.sign(_proof(b"tandem-kv hello", greeting_nonce, whole))[1]})


def is_hello_authentic(hello: Hello, greeting_nonce: str, signer: Signer) -> bool:
    return signer.is_authentic(_proof(b"tandem-kv hello", greeting_nonce, hello), hello.mac)


def seal_welcome(welcome: Welcome, hello_nonce: str, signer: Signer) -> Welcome:
    """With the mac that an impostor on a reused address cannot make."""
    whole = Welcome.model_validate_json(welcome.model_dump_json())
    return whole.model_copy(update={"mac": signer.sign(_proof(b"tandem-kv welcome", hello_nonce, whole))[1]})


def is_welcome_authentic(welcome: Welcome, hello_nonce: str, signer: Signer) -> bool:
    return signer.is_authentic(_proof(b"tandem-kv welcome", hello_nonce, welcome), welcome.mac)


def _proof(purpose: bytes, nonce: str, message: Hello | Welcome) -> bytes:
    """Over the fields that are on the wire, be they known to this release or not."""
    fields = message.model_dump(exclude={"mac"}, exclude_unset=True)
    body = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return b"\n".join([purpose, nonce.encode(), body.encode()])
