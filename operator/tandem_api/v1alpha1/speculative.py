"""Speculative decoding: guess tokens cheaply, check them together."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from tandem_api.schema import Resource, ShortText, cel
from tandem_api.v1alpha1.sources import Source, no_parent_directory

SpeculationMethod = Literal["ngram", "draft_model", "eagle", "eagle3", "mtp"]


class Speculative(Resource):
    """Speculative decoding. Every method but ngram keeps KV of its own, and is part of the kv-revision."""

    method: Annotated[
        SpeculationMethod,
        Field(
            description="ngram: tokens that followed the same words before; decode workers only. draft_model: a "
            "smaller model. eagle, eagle3: a head trained for the model. mtp: the model's own heads."
        ),
    ]
    tokens: Annotated[int, Field(ge=1, le=64, description="Tokens guessed in one step.")]
    source: Annotated[
        Source | None, Field(description="Weights of the draft model or EAGLE head; as model.source.")
    ] = None
    revision: Annotated[ShortText | None, Field(description="Revision of the source, hf:// only.")] = None
    prompt_lookup_min: Annotated[int | None, Field(ge=1, le=64, description="Shortest match, ngram only.")] = None
    prompt_lookup_max: Annotated[int | None, Field(ge=1, le=64, description="Longest match, ngram only.")] = None
    draft_tensor: Annotated[
        int | None, Field(ge=1, le=64, description="Tensor parallelism of the draft: 1, or that of the model.")
    ] = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!(self.method in ['draft_model', 'eagle', 'eagle3']) || has(self.source)",
                    "engine.speculative.source is missing: this method needs the weights of its draft",
                ),
                cel(
                    "!(self.method in ['ngram', 'mtp']) || !has(self.source)",
                    "engine.speculative.source: ngram and mtp have no weights of their own; remove it",
                ),
                cel(
                    "self.method == 'ngram' || (!has(self.promptLookupMin) && !has(self.promptLookupMax))",
                    "engine.speculative.promptLookupMin and promptLookupMax go with method ngram only: remove them",
                ),
                cel(
                    "!has(self.promptLookupMin) || !has(self.promptLookupMax)"
                    " || self.promptLookupMin <= self.promptLookupMax",
                    "engine.speculative.promptLookupMin is above promptLookupMax: lower it",
                ),
                cel(
                    "!has(self.revision) || (has(self.source) && self.source.startsWith('hf://'))",
                    "engine.speculative.revision goes with hf:// sources only: remove it",
                ),
                cel(
                    "!has(self.revision) || self.revision.matches('^[A-Za-z0-9][A-Za-z0-9._/-]*$')",
                    "engine.speculative.revision must be a branch, tag or commit",
                ),
                no_parent_directory("engine.speculative.source"),
            ]
        }
    )


class Lora(Resource):
    """Room for LoRA adapters."""

    max_rank: Annotated[
        Literal[8, 16, 32, 64, 128, 256, 320, 512] | None, Field(description="Largest rank of an adapter. Default: 16.")
    ] = None
    max_in_batch: Annotated[int | None, Field(ge=1, le=64, description="Different adapters in one batch.")] = None
    max_in_memory: Annotated[int | None, Field(ge=1, le=1024, description="Adapters kept in CPU memory.")] = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.maxInMemory) || self.maxInMemory >= (has(self.maxInBatch) ? self.maxInBatch : 1)",
                    "engine.lora.maxInMemory is below maxInBatch: raise it",
                )
            ]
        }
    )
