"""Embeddings of the sim engine: unit vectors that depend on the text alone. Pure."""

import base64
import hashlib
import math
import struct
from typing import Any

from pydantic import BaseModel, ConfigDict

from tandem_worker.engines.sim.text import count_tokens

DIMENSIONS = 8


class EmbeddingBody(BaseModel):
    """What is heeded of the request."""

    model_config = ConfigDict(extra="ignore")

    model: str
    input: str | list[str]
    encoding_format: str = "float"

    def texts(self) -> list[str]:
        """One or several inputs."""
        return [self.input] if isinstance(self.input, str) else self.input


def embed(text: str) -> list[float]:
    """A vector of length 1."""
    digest = hashlib.blake2b(text.encode(), digest_size=DIMENSIONS * 2).digest()
    parts = [part / 32768.0 for part in struct.unpack(f"<{DIMENSIONS}h", digest)]
    length = math.sqrt(sum(part * part for part in parts)) or 1.0
    return [part / length for part in parts]


def build_embeddings(body: EmbeddingBody) -> dict[str, Any]:
    """The whole answer, as floats or as base64 of little-endian float32."""
    vectors = [embed(text) for text in body.texts()]
    shown = [_packed(vector) if body.encoding_format == "base64" else vector for vector in vectors]
    tokens = sum(map(count_tokens, body.texts()))
    data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(shown)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": body.model, "data": data, "usage": usage}


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
