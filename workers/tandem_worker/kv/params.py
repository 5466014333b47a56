"""`kv_transfer_params`: the signed ticket that a prefill worker issues and a decode worker redeems."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem_worker.kv.keys import Signer

BlockIds = list[list[int]]


class TicketError(ValueError):
    """The parameters cannot be redeemed. `reason` is the name under which it is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Ticket(BaseModel):
    """What the prefill worker promises: these blocks of this request, at this address, until about `expiry`.

    Strict, bounded, and signed over every field but `mac` and the `do_*` switches, which vLLM's own code flips.
    Unknown fields are ignored: vLLM adds some of its own on the way.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    remote_engine_id: str = Field(min_length=1, max_length=256)
    remote_request_id: str = Field(min_length=1, max_length=512)
    remote_block_ids: BlockIds = Field(max_length=64)
    remote_host: str = Field(min_length=1, max_length=255)
    remote_port: int = Field(ge=1, le=65535)
    tp_size: int = Field(ge=1, le=1024)
    remote_num_tokens: int = Field(ge=1)
    prompt_digest: str = Field(min_length=64, max_length=64)
    expiry: int = Field(ge=0, description="Unix time in seconds by the prefill worker's clock; advisory")
    fleet: str = Field(max_length=255)
    kid: str = Field(max_length=64)
    mac: str = Field(min_length=64, max_length=64)

    def signed_bytes(self) -> bytes:
        return _canonical(self.model_dump(exclude={"mac"}))

    def to_params(self) -> dict[str, Any]:
        """The form in which the router carries it to the decode worker."""
        switches: dict[str, Any] = {"do_remote_prefill": True, "do_remote_decode": False}
        return switches | self.model_dump()


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return b"tandem-kv ticket\n" + json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def issue_ticket(fields: Mapping[str, Any], signer: Signer) -> Ticket:
    """Sign `fields` (all of Ticket's but `kid` and `mac`)."""
    kid, _ = signer.sign(b"")
    draft = Ticket(**fields, kid=kid, mac="0" * 64)
    return draft.model_copy(update={"mac": signer.sign(draft.signed_bytes())[1]})


def read_ticket(params: Mapping[str, Any], fleet: str, signer: Signer) -> Ticket:
    """Raises TicketError: `malformed`, `foreign_fleet` or `bad_signature`."""
    try:
        ticket = Ticket.model_validate({key: params[key] for key in Ticket.model_fields if key in params})
    except ValidationError as error:
        fields = ", ".join(str(fault["loc"][0]) for fault in error.errors())
        raise TicketError("malformed", f"kv_transfer_params: wrong or missing {fields}") from error
    if ticket.fleet != fleet:
        raise TicketError("foreign_fleet", f"kv_transfer_params.fleet is {ticket.fleet!r}, this is {fleet!r}")
    if not signer.is_authentic(ticket.signed_bytes(), ticket.mac):
        raise TicketError("bad_signature", "kv_transfer_params.mac does not verify with this fleet's key")
    return ticket


def digest_prompt(token_ids: Sequence[int], extras: Iterable[str] = ()) -> str:
    """What the KV was computed from: the tokens, and all else that enters it (adapter, images).

    Redeeming a ticket for another prompt would be silent corruption; the digest makes it a counted recompute.
    """
    digest = hashlib.sha256(array("q", token_ids).tobytes())
    for extra in extras:
        digest.update(b"\0" + extra.encode())
    return digest.hexdigest()
