"""Which model a fleet serves."""

from typing import Annotated

from pydantic import ConfigDict, Field

from tandem_api.schema import Name, Resource, ShortText, cel


class SecretKey(Resource):
    """One key of a Secret in the same namespace."""

    name: Annotated[Name, Field(description="Name of the Secret.")]
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")] = "token"


class Model(Resource):
    """Which model the fleet serves, and where its weights come from."""

    name: Annotated[str, Field(min_length=1, max_length=253, description="Model name as its publisher writes it.")]
    served_name: Annotated[
        str | None,
        Field(min_length=1, max_length=253, description="Name that clients ask for. Default: name."),
    ] = None
    source: Annotated[
        str | None,
        Field(
            max_length=1024,
            pattern=r"^(hf://[A-Za-z0-9._-]+/[A-Za-z0-9._-]+|pvc://[a-z0-9][a-z0-9.-]*(/[A-Za-z0-9._/-]*)?|synthetic://tiny-llama)$",
            description="hf://ORG/NAME (default: hf:// and name), pvc://CLAIM/PATH, or synthetic://tiny-llama, a "
            "small random model made on the spot for demos and tests.",
        ),
    ] = None
    revision: Annotated[ShortText | None, Field(description="Revision of the weights, hf:// only.")] = None
    token_secret: Annotated[
        SecretKey | None, Field(description="Secret with the access token of a gated hf:// model.")
    ] = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "has(self.source) || self.name.matches('^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$')",
                    "model.source is missing and model.name is not ORG/NAME: set model.source to hf://ORG/NAME or pvc://CLAIM/PATH",
                ),
                cel(
                    "!has(self.source) || !self.source.contains('..')",
                    "model.source may not contain '..': give the path from the root of the claim",
                ),
                cel(
                    "!has(self.revision) || !has(self.source) || self.source.startsWith('hf://')",
                    "model.revision goes with hf:// sources only: remove it",
                ),
            ]
        }
    )
