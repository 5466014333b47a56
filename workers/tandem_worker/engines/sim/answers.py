"""What the sim engine answers: invented words, or what the request's tools or output format call for. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tandem_worker.engines.sim.text import generate_words

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """One answer before its first token.

    Attributes:
        kind: endless words, JSON, or the call of a function.
        pieces: all its tokens; None for words, which do not end by themselves.
        function: what is called.
    """

    kind: Literal["words", "json", "call"] = "words"
    pieces: tuple[str, ...] | None = None
    function: str = ""

    def tokens(self, prompt: str) -> Iterator[str]:
        """The answer to `prompt`, token by token."""
        return generate_words(prompt) if self.pieces is None else iter(self.pieces)

    def limit(self, max_tokens: int) -> int:
        """How many tokens there will be."""
        return max_tokens if self.pieces is None else min(max_tokens, len(self.pieces))

    def finish_reason(self, count: int) -> str:
        """Why the answer ends after `count` tokens."""
        if self.pieces is None or count < len(self.pieces):
            return "length"
        return "tool_calls" if self.kind == "call" else "stop"


WORDS = Answer()


def plan_answer(
    functions: Mapping[str, Schema], *, choice: str | None, schema: Schema | None, awaits_call: bool
) -> Answer:
    """The answer to a request.

    Args:
        functions: parameters by name, in the order in which they were offered.
        choice: name of the function that must be called; "required" for any, "none" for none, None where free.
        schema: what the answer must look like, None for text.
        awaits_call: it is the model's turn after a person's, not after a function's result.
    """
    is_wanted = choice == "required" or choice in functions or (choice is None and awaits_call)
    if functions and is_wanted:
        name = choice if choice in functions else next(iter(functions))
        assert name is not None
        return Answer("call", split(json.dumps(sample(functions[name]))), name)
    return WORDS if schema is None else Answer("json", split(json.dumps(sample(schema))))


def sample(schema: Schema) -> Any:
    """The plainest value that fits a JSON schema."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: sample(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [sample(schema.get("items", {}))] * max(1, schema.get("minItems", 1))
    plain = {"integer": max(0, int(schema.get("minimum", 0))), "number": 0.5, "boolean": True, "null": None}
    return plain.get(kind, "river")


def split(text: str, size: int = 4) -> tuple[str, ...]:
    """`text` as tokens."""
    return tuple(text[at : at + size] for at in range(0, len(text), size)) or ("",)


def functions_of(tools: Sequence[Mapping[str, Any]]) -> dict[str, Schema]:
    """Parameters by name of tools as any of the APIs writes them."""
    found = {}
    for tool in tools:
        inner = tool.get("function", tool)
        if "name" in inner:
            found[inner["name"]] = inner.get("parameters") or inner.get("input_schema") or {}
    return found
