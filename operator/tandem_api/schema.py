"""Building blocks of the custom resources: bounded types, camelCase aliases, CEL rules beside the fields they guard."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from pydantic.alias_generators import to_camel

ShortText = Annotated[str, StringConstraints(min_length=1, max_length=253)]
LongText = Annotated[str, StringConstraints(max_length=1024)]
ImageName = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
Quantity = Annotated[
    str,
    StringConstraints(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"),
]
Count = Annotated[int, Field(ge=0, le=10_000)]


def cel(rule: str, message: str, **extra: JsonValue) -> dict[str, JsonValue]:
    """One `x-kubernetes-validations` entry. `message` names the field and the fix.

    Guard every optional field with has(), also one that has a default: the API server checks the rule on a default of
    the parent before it fills in the defaults of the children.
    """
    return {"rule": rule, "message": message, **extra}


class Resource(BaseModel):
    """Base of every object in a custom resource: camelCase on the wire, unknown fields ignored.

    Ignoring what is unknown lets an operator read objects written under a newer schema; the API server has
    pruned what is wrong.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    def to_wire(self) -> dict[str, Any]:
        """The JSON form with camelCase keys, without fields that hold None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
