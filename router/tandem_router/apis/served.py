"""All APIs that this router serves."""

from tandem_router.apis import embeddings, messages, responses
from tandem_router.apis.completions import CHAT, TEXT
from tandem_router.apis.fault_shapes import OPENAI, FaultShape
from tandem_router.apis.shape import Api

SERVED = (CHAT, TEXT, responses.API, messages.MESSAGES, messages.COUNT_TOKENS, embeddings.API)
BY_PATH: dict[str, Api] = {api.path: api for api in SERVED}


def faults_at(path: str) -> FaultShape:
    """How errors are written to clients that ask at `path`."""
    api = BY_PATH.get(path)
    return OPENAI if api is None else api.faults
