"""Where pods may run: as in a Pod, less what could name another namespace."""

from typing import Annotated, Literal

from pydantic import Field

from tandem_api.schema import LongText, Resource, ShortText

_Values = Annotated[list[LongText], Field(max_length=64)]
_TopologyKey = Annotated[str, Field(min_length=1, max_length=317)]


class LabelRequirement(Resource):
    """As in a Pod."""

    key: Annotated[str, Field(min_length=1, max_length=317)]
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: _Values = []


class LabelSelector(Resource):
    """As in a Pod. An empty one matches all pods of the namespace."""

    match_labels: Annotated[dict[str, LongText], Field(max_length=32)] = {}
    match_expressions: Annotated[list[LabelRequirement], Field(max_length=32)] = []


class NodeRequirement(Resource):
    """As in a Pod."""

    key: Annotated[str, Field(min_length=1, max_length=317)]
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: _Values = []


class NodeSelectorTerm(Resource):
    """As in a Pod."""

    match_expressions: Annotated[list[NodeRequirement], Field(max_length=32)] = []
    match_fields: Annotated[list[NodeRequirement], Field(max_length=8)] = []


class NodeSelector(Resource):
    """As in a Pod: any of the terms."""

    node_selector_terms: Annotated[list[NodeSelectorTerm], Field(min_length=1, max_length=16)]


class PreferredNodes(Resource):
    """As in a Pod."""

    weight: Annotated[int, Field(ge=1, le=100)]
    preference: NodeSelectorTerm


class NodeAffinity(Resource):
    """As in a Pod."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredNodes], Field(max_length=16)] = []


class PodAffinityTerm(Resource):
    """As in a Pod, for pods of the same namespace."""

    label_selector: LabelSelector | None = None
    topology_key: _TopologyKey
    match_label_keys: Annotated[list[ShortText], Field(max_length=16)] = []
    mismatch_label_keys: Annotated[list[ShortText], Field(max_length=16)] = []


class WeightedPodAffinityTerm(Resource):
    """As in a Pod."""

    weight: Annotated[int, Field(ge=1, le=100)]
    pod_affinity_term: PodAffinityTerm


class PodAffinity(Resource):
    """As in a Pod; of affinity and of anti-affinity."""

    required_during_scheduling_ignored_during_execution: Annotated[list[PodAffinityTerm], Field(max_length=16)] = []
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[WeightedPodAffinityTerm], Field(max_length=16)
    ] = []


class Affinity(Resource):
    """As in a Pod."""

    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class TopologySpreadConstraint(Resource):
    """As in a Pod. Without a labelSelector it spreads the workers of the pool."""

    max_skew: Annotated[int, Field(ge=1, le=10_000)]
    topology_key: _TopologyKey
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    label_selector: LabelSelector | None = None
    min_domains: Annotated[int | None, Field(ge=1, le=10_000)] = None
    node_affinity_policy: Literal["Honor", "Ignore"] | None = None
    node_taints_policy: Literal["Honor", "Ignore"] | None = None
    match_label_keys: Annotated[list[ShortText], Field(max_length=16)] = []


class Toleration(Resource):
    """As in a Pod."""

    key: Annotated[str | None, Field(max_length=317)] = None
    operator: Literal["Exists", "Equal"] | None = None
    value: Annotated[str | None, Field(max_length=63)] = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int | None, Field(ge=0, le=2_147_483_647)] = None


class Locality(Resource):
    """Prefill and decode workers near one another, so that KV moves over short ways."""

    topology_key: Annotated[
        _TopologyKey, Field(description="Node label of a place, as topology.kubernetes.io/zone or a rack's.")
    ]
    required: Annotated[
        bool, Field(description="All workers of the fleet in one place, or else pending. Default: where possible.")
    ] = False
