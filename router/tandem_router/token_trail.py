"""Which tokens of a stream have been sent, so that another worker can go on after them. No I/O.

The engine is asked to tell token ids with each event; here they are noted and taken out of the event again. A token
counts as sent once text was sent after it: engines hold back text of characters that are not complete.
"""

import re
from typing import Any

from tandem_router.events import build_event, parse_event

_IDS = re.compile(rb'"((?:prompt_)?token_ids)":\s*\[[0-9,\s]*\]')  # a quote inside a JSON string is escaped
_PLAIN_DELTA = frozenset(("role", "content"))


class TokenTrail:
    """Tokens of one answer, over all workers that contribute to it.

    Attributes:
        prompt_ids: what the engine made of the prompt; None until it has told.
        sent_ids: tokens of the answer whose text has been sent.
        is_finished: the answer has come to its own end; only what follows it may be missing.
        is_resumed: another worker goes on with what one has begun.
    """

    __slots__ = ("_before", "_identity", "_lost", "_pending", "is_finished", "is_resumed", "prompt_ids", "sent_ids")

    def __init__(self) -> None:
        self.prompt_ids: list[int] | None = None
        self.sent_ids: list[int] = []
        self.is_finished = False
        self.is_resumed = False
        self._pending: list[int] = []
        self._before = 0  # tokens that workers before the present one have sent
        self._identity: dict[str, Any] = {}  # the first chunk's identity, which all others carry
        self._lost = False

    @property
    def can_continue(self) -> bool:
        """All that was sent is known."""
        return not self._lost and bool(self.prompt_ids)

    def give_up(self) -> None:
        """Something was sent of which the tokens are not known."""
        self._lost = True

    def resume(self) -> None:
        """The worker is lost; another will go on."""
        self._pending = []
        self._before = len(self.sent_ids)
        self.is_resumed = True

    def take(self, event: bytes) -> bytes:
        """Note the tokens of one event; returns it as the client may see it, empty if it repeats what was sent."""
        if b"data: {" not in event:
            return event
        chunk = parse_event(event)
        choices = chunk.get("choices")
        if choices:
            self._note(chunk, choices[0])
            if self.is_resumed and is_opening(choices[0]):
                return b""
        return build_event(self._renamed(chunk)) if self.is_resumed else _IDS.sub(rb'"\1":null', event)

    def _note(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        if not self._identity:
            self._identity = {key: chunk[key] for key in ("id", "created", "object", "model") if key in chunk}
        if self.prompt_ids is None:
            self.prompt_ids = chunk.get("prompt_token_ids") or choice.get("prompt_token_ids")
        self._pending += choice.get("token_ids") or ()
        self.is_finished = self.is_finished or choice.get("finish_reason") is not None
        if has_text(choice) or self.is_finished:
            if has_text(choice) and not self._pending:
                self.give_up()  # an engine that tells no ids
            self.sent_ids += self._pending
            self._pending = []
        if not is_plain(choice):
            self.give_up()

    def _renamed(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """A chunk of another worker as one of the stream that the client knows."""
        same = {key: value for key, value in self._identity.items() if key in chunk}
        bare = {"prompt_token_ids": None} if "prompt_token_ids" in chunk else {}
        choices = [without_ids(choice) for choice in chunk.get("choices") or ()]
        usage = {"usage": self.whole_usage(chunk["usage"])} if chunk.get("usage") else {}
        return {**chunk, **same, **bare, "choices": choices, **usage}

    def whole_usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Counts of the whole answer out of those of its last part."""
        if not self._before:
            return usage
        prompt = len(self.prompt_ids or ())
        completion = int(usage.get("completion_tokens") or 0) + self._before
        return {**usage, "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def usage(self) -> dict[str, Any]:
        """Counts of all that was sent."""
        prompt, completion = len(self.prompt_ids or ()), len(self.sent_ids)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def build_ending(self, *, with_usage: bool) -> bytes:
        """What a finished stream lacks when its worker is lost after the last token."""
        usage = build_event({**self._identity, "choices": [], "usage": self.usage()}) if with_usage else b""
        return usage + b"data: [DONE]\n\n"


def has_text(choice: dict[str, Any]) -> bool:
    """Some of the answer is in this event."""
    return bool(choice.get("text") or (choice.get("delta") or {}).get("content"))


def is_opening(choice: dict[str, Any]) -> bool:
    """The chunk with which a chat stream begins: the role, and nothing of the answer."""
    return "role" in (choice.get("delta") or {}) and not has_text(choice) and choice.get("finish_reason") is None


def is_plain(choice: dict[str, Any]) -> bool:
    """Text, and nothing else: no tool call, no reasoning, no probabilities."""
    delta = choice.get("delta") or {}
    extra = [key for key, value in delta.items() if value and key not in _PLAIN_DELTA]
    return not extra and not choice.get("logprobs") and not choice.get("index")


def without_ids(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice without token ids."""
    return {key: None if key in ("token_ids", "prompt_token_ids") else value for key, value in choice.items()}
