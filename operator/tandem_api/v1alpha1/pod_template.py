"""The part of a worker's pod that a user may shape: an allow-list, because the operator makes pods with its own rights.

What is not here cannot be had: volumes, containers, commands, security contexts, service accounts, host namespaces, and
references into other namespaces.
"""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from tandem_api.schema import LongText, Name, Resource, cel
from tandem_api.v1alpha1.scheduling import Affinity, Toleration, TopologySpreadConstraint
from tandem_api.v1alpha1.sources import SecretKey

OWNED_VARIABLES = (
    *(
        "POD_IP",
        "POD_NAME",
        "PYTHONPATH",
        "PYTHONHOME",
        "PATH",
        "HOME",
        "USER",
        "HF_HOME",
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
    ),
    *("VLLM_API_KEY", "VLLM_PLUGINS", "VLLM_PORT", "VLLM_ENABLE_V1_MULTIPROCESSING", "KUBERNETES_SERVICE_HOST"),
    *("KUBERNETES_SERVICE_PORT", "LD_PRELOAD", "LD_LIBRARY_PATH", "LWS_LEADER_ADDRESS", "LWS_WORKER_INDEX"),
    *("LWS_GROUP_SIZE", "VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT"),
)
OWNED_VARIABLE_PREFIXES = ("TANDEM_",)
_FOREIGN_ANNOTATIONS = "(^|[.])security[.](alpha|beta)[.]kubernetes[.]io/|^sidecar[.]istio[.]io/"


class LocalObjectReference(Resource):
    """Name of an object in the same namespace."""

    name: Name


class ConfigMapKey(Resource):
    """One key of a ConfigMap in the same namespace."""

    name: Name
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]


class VariableSource(Resource):
    """Where a variable's value comes from."""

    secret_key_ref: SecretKey | None = None
    config_map_key_ref: ConfigMapKey | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "has(self.secretKeyRef) != has(self.configMapKeyRef)",
                    "podTemplate.env[].valueFrom needs one of secretKeyRef and configMapKeyRef: set one",
                )
            ]
        }
    )


class Variable(Resource):
    """An environment variable of the engine."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    value: Annotated[str | None, Field(max_length=4096)] = None
    value_from: VariableSource | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    f"!(self.name in {list(OWNED_VARIABLES)})"
                    + "".join(f" && !self.name.startsWith('{prefix}')" for prefix in OWNED_VARIABLE_PREFIXES),
                    "podTemplate.env[].name is a variable that Tandem sets: choose another, or use the typed field",
                ),
                cel(
                    "has(self.value) != has(self.valueFrom)",
                    "podTemplate.env[] needs one of value and valueFrom: set one",
                ),
            ]
        }
    )


class ResourceClaim(Resource):
    """A claim of Dynamic Resource Allocation, given to the engine's container."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    resource_claim_name: Annotated[Name | None, Field(description="A claim that all pods of the pool share.")] = None
    resource_claim_template_name: Annotated[Name | None, Field(description="Template of a claim for each pod.")] = None

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "has(self.resourceClaimName) != has(self.resourceClaimTemplateName)",
                    "podTemplate.resourceClaims[]: set one of resourceClaimName and resourceClaimTemplateName",
                )
            ]
        }
    )


def _map_of(key: str) -> dict[str, Any]:
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


class PodTemplate(Resource):
    """The part of a worker's pod that a user may shape. Everything else is Tandem's."""

    labels: Annotated[dict[str, LongText], Field(max_length=32)] = {}
    annotations: Annotated[dict[str, LongText], Field(max_length=32)] = {}
    env: Annotated[list[Variable], Field(max_length=64, json_schema_extra=_map_of("name"))] = []
    node_selector: Annotated[dict[str, LongText], Field(max_length=32)] = {}
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = []
    affinity: Affinity | None = None
    topology_spread_constraints: Annotated[list[TopologySpreadConstraint], Field(max_length=8)] = []
    scheduler_name: Name | None = None
    priority_class_name: Name | None = None
    runtime_class_name: Name | None = None
    image_pull_secrets: Annotated[list[LocalObjectReference], Field(max_length=8)] = []
    resource_claims: Annotated[list[ResourceClaim], Field(max_length=8, json_schema_extra=_map_of("name"))] = []

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                *(
                    cel(
                        f"!has(self.{field}) || self.{field}.all(k, !k.startsWith('tandem.dev/')"
                        " && !k.startsWith('app.kubernetes.io/'))",
                        f"podTemplate.{field} may not use the prefixes tandem.dev/ and app.kubernetes.io/: "
                        "choose another key",
                    )
                    for field in ("labels", "annotations")
                ),
                cel(
                    f"!has(self.annotations) || self.annotations.all(k, !k.matches('{_FOREIGN_ANNOTATIONS}'))",
                    "podTemplate.annotations may not change what confines the pod (security profiles, injected "
                    "sidecars): remove the key",
                ),
                cel(
                    "!has(self.priorityClassName) || !self.priorityClassName.startsWith('system-')",
                    "podTemplate.priorityClassName may not be one of the system's: choose another PriorityClass",
                ),
                cel(
                    "!has(self.imagePullSecrets) || self.imagePullSecrets.all(s, "
                    "!(s.name in ['tandem-root', 'tandem-router']) && !s.name.endsWith('-keys'))",
                    "podTemplate.imagePullSecrets names a Secret that is Tandem's own: use one of yours",
                ),
            ]
        }
    )
