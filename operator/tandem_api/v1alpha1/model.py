"""Which model a fleet serves."""

from typing import Annotated

from pydantic import ConfigDict, Field

from tandem_api.schema import Resource, ShortText, cel
from tandem_api.v1alpha1.sources import Adapter, ModelCache, ObjectStore, SecretKey, Source, no_parent_directory


class Model(Resource):
    """Which model the fleet serves, and where its weights come from."""

    name: Annotated[str, Field(min_length=1, max_length=253, description="Model name as its publisher writes it.")]
    served_name: Annotated[
        str | None,
        Field(min_length=1, max_length=253, description="Name that clients ask for. Default: name."),
    ] = None
    source: Annotated[Source | None, Field(description="Default: hf:// and name.")] = None
    revision: Annotated[ShortText | None, Field(description="Revision of the weights, hf:// only.")] = None
    token_secret: Annotated[
        SecretKey | None, Field(description="Secret with the access token of a gated hf:// model.")
    ] = None
    adapters: Annotated[
        list[Adapter],
        Field(
            max_length=64,
            description="LoRA adapters. KV computed under one fits no other, so a change is a new kv-revision.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = []
    cache: Annotated[ModelCache | None, Field(description="Default: each pod fetches for itself.")] = None
    object_store: ObjectStore | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "has(self.source) || self.name.matches('^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$')",
                    "model.source is missing and model.name is not ORG/NAME: set model.source to hf://ORG/NAME or pvc://CLAIM/PATH",
                ),
                no_parent_directory("model.source"),
                cel(
                    "!has(self.revision) || !has(self.source) || self.source.startsWith('hf://')",
                    "model.revision goes with hf:// sources only: remove it",
                ),
                cel(
                    "!has(self.revision) || self.revision.matches('^[A-Za-z0-9][A-Za-z0-9._/-]*$')",
                    "model.revision must be a branch, tag or commit: letters, digits, dot, underscore, slash and dash",
                ),
                cel(
                    "!has(self.adapters) || self.adapters.all(a, a.name != self.name && "
                    "(!has(self.servedName) || a.name != self.servedName))",
                    "model.adapters[].name is the name of the model itself: give the adapter a name of its own",
                ),
            ]
        }
    )
