"""InferenceRegion: a region that may serve what another cannot."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from tandem_api.schema import Name, Resource, cel
from tandem_api.v1alpha1.status import Condition

_HOST = r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\\[[0-9A-Fa-f:.]+\\])"
RegionLabel = Annotated[str, Field(max_length=63)]


class InferenceRegionSpec(Resource):
    """Where a region is reached, what it costs, and whether it takes work. Routers of the same namespace follow it."""

    url: Annotated[
        str | None,
        Field(
            max_length=512,
            description="Of the internal listener of its routers: http(s)://HOST[:PORT]. Not needed on the object that "
            "describes this region itself; a peer without it is not used.",
        ),
    ] = None
    credentials_secret: Annotated[
        Name | None,
        Field(
            description="Secret of this namespace whose key `token` the region's internal listener accepts. The chart "
            "mounts it (region.peers); not needed where mutual TLS says who asks."
        ),
    ] = None
    ca_secret: Annotated[
        Name | None,
        Field(description="Secret of this namespace whose key `ca.crt` signs the region's listener; mounted likewise."),
    ] = None
    labels: Annotated[
        dict[str, RegionLabel],
        Field(max_length=16, description="What residency rules look at, such as jurisdiction: eu."),
    ] = {}
    price_weight: Annotated[
        float, Field(gt=0, le=1000, description="Relative price of its capacity; the cheaper helps first.")
    ] = 1.0
    drain: Annotated[
        bool,
        Field(
            description="Give it nothing new. On the object of this region itself: send away what another may serve."
        ),
    ] = False

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    f"!has(self.url) || self.url.matches('^https?://{_HOST}(:[0-9]{{1,5}})?$')",
                    "spec.url must be http(s)://HOST[:PORT] of the region's internal listener: without path, user or "
                    "query",
                ),
                cel(
                    "!has(self.caSecret) || !has(self.url) || self.url.startsWith('https://')",
                    "spec.caSecret verifies an https:// url: change spec.url, or remove caSecret",
                ),
                cel(
                    "!has(self.labels) || self.labels.all(key, key.size() > 0 && key.size() <= 63)",
                    "spec.labels: a name has 1 to 63 characters: shorten it",
                ),
            ]
        }
    )


class InferenceRegionStatus(Resource):
    """What this region's routers say of it."""

    conditions: Annotated[
        list[Condition],
        Field(
            max_length=8,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []


class InferenceRegion(Resource):
    """A region that may serve what this one cannot; the one named like the chart's region.name is this one itself."""

    api_version: Literal["tandem.dev/v1alpha1"] = "tandem.dev/v1alpha1"
    kind: Literal["InferenceRegion"] = "InferenceRegion"
    metadata: dict[str, Any] = {}
    spec: InferenceRegionSpec
    status: InferenceRegionStatus | None = None
