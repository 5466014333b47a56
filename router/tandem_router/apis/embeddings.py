"""OpenAI's embeddings: one pass over the input, nothing to hand over."""

from tandem_router import jsontext
from tandem_router.apis.checks import build_checks
from tandem_router.apis.completions import STREAM
from tandem_router.apis.shape import Api
from tandem_router.apis.usage import read_completion_usage

API = Api(
    path="/v1/embeddings",
    checks=build_checks(),
    prefill_limits={},
    whole_reason=lambda _: "embeddings",
    prompt=lambda fields: jsontext.dumps(fields.get("input")),
    read_usage=read_completion_usage,
    stream=STREAM,
    operation="embeddings",
)
