"""Where weights come from: models, draft models and adapters alike."""

from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue

from tandem_api.schema import ImageName, Name, Resource, cel

_HUB = r"hf://[A-Za-z0-9._-]+/[A-Za-z0-9._-]+"
_CLAIM = r"pvc://[a-z0-9][a-z0-9.-]*(/[A-Za-z0-9._/-]*)?"
_IMAGE = r"oci://[A-Za-z0-9][A-Za-z0-9._/:@-]*(#[A-Za-z0-9._/-]+)?"
_BUCKET = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]*)?"
SYNTHETIC = "synthetic://tiny-llama"

Source = Annotated[
    str,
    Field(
        max_length=1024,
        pattern=rf"^({_HUB}|{_CLAIM}|{_IMAGE}|{_BUCKET}|{SYNTHETIC})$",
        description="hf://ORG/NAME; pvc://CLAIM/PATH; oci://IMAGE#PATH, an image that holds the files; "
        "s3://BUCKET/PREFIX; or synthetic://tiny-llama, a small random model made on the spot for demos and tests.",
    ),
]
OwnedSecret = Annotated[Name, Field(description="Name of a Secret in the namespace of the fleet.")]


def no_parent_directory(field: str) -> dict[str, JsonValue]:
    """CEL: `field`, a source that may be absent, never climbs out of its root."""
    name = field.rpartition(".")[2]
    return cel(
        f"!has(self.{name}) || !self.{name}.contains('..')",
        f"{field} may not contain '..': give the path from the root of the claim, image or bucket",
    )


def not_a_secret_of_tandem(path: str, field: str) -> dict[str, JsonValue]:
    """CEL: the Secret named at `path` is none that Tandem made: a fleet's writer may not read keys by way of a pod."""
    return cel(
        f"!has(self.{path}) || !(self.{path}.startsWith('tandem-') || self.{path}.endsWith('-keys'))",
        f"{field} names a Secret that is Tandem's own (tandem-*, *-keys): use one of yours",
    )


class SecretKey(Resource):
    """One key of a Secret in the same namespace."""

    name: OwnedSecret
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")] = "token"

    model_config = ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [not_a_secret_of_tandem("name", "the Secret's name")]}
    )


class Adapter(Resource):
    """A LoRA adapter, served under a name of its own beside the model."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$",
            description="Name that clients ask for.",
        ),
    ]
    source: Annotated[
        Source, Field(description="As model.source, without synthetic://. hf:// follows its main branch.")
    ]

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                no_parent_directory("model.adapters[].source"),
                cel(
                    "!self.source.startsWith('synthetic://')",
                    "model.adapters[].source: there is no synthetic adapter; use hf://, pvc://, oci:// or s3://",
                ),
            ]
        }
    )


class ModelCache(Resource):
    """A volume that all workers share, so that weights are fetched once."""

    claim_name: Annotated[Name, Field(description="PersistentVolumeClaim with access mode ReadWriteMany.")]


class ObjectStore(Resource):
    """How s3:// sources are reached."""

    endpoint: Annotated[
        str | None,
        Field(
            max_length=512,
            pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?$",
            description="Of an S3-compatible store. Default: AWS.",
        ),
    ] = None
    region: Annotated[str | None, Field(max_length=63, pattern=r"^[a-z0-9-]+$")] = None
    credentials_secret: Annotated[
        OwnedSecret | None,
        Field(
            description="Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN if "
            "there is one. Default: the bucket is public."
        ),
    ] = None
    image: Annotated[
        ImageName | None, Field(description="Image with the AWS command line that fetches. Default: amazon/aws-cli.")
    ] = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                not_a_secret_of_tandem("credentialsSecret", "model.objectStore.credentialsSecret")
            ]
        }
    )
