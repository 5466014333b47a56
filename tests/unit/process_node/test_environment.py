"""A container's variables follow Kubernetes' rules for order, references and substitution."""

from __future__ import annotations

import pytest
from unit.process_node.pods import make_pod

from cluster.process_node.environment import (
    ConfigurationError,
    SourceKey,
    build_environment,
    expand,
    named_sources,
)
from cluster.process_node.fields import FieldError, PodFields
from cluster.process_node.objects import JsonObject

CONF, KEYS = SourceKey("ConfigMap", "conf"), SourceKey("Secret", "keys")
SOURCES = {CONF: {"LEVEL": "debug", "A": "from-map"}, KEYS: {"key": "s3cret"}}


def fields(pod: JsonObject | None = None) -> PodFields:
    return PodFields(pod or make_pod(), "127.9.0.5", "127.0.0.1", {"cpu": "16", "memory": "64Gi"})


def env(*variables: JsonObject, **container: object) -> dict[str, str]:
    spec = {"name": "main", "env": list(variables), **container}
    return build_environment(spec, SOURCES, fields(), {"KUBERNETES_SERVICE_HOST": "127.0.0.1"})


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y2"),
        ("$(NOPE)", "$(NOPE)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A}", "$A ${A}"),
        ("$(A", "$(A"),
        ("100$", "100$"),
        ("$$$$", "$$"),
    ],
)
def test_substitution(text: str, want: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == want


def test_a_value_sees_variables_before_it_and_the_api_server_but_not_those_after_it() -> None:
    made = env(
        {"name": "A", "value": "$(B)-$(KUBERNETES_SERVICE_HOST)"},
        {"name": "B", "value": "b"},
        {"name": "C", "value": "$(A)$(B)"},
    )
    assert made == {"A": "$(B)-127.0.0.1", "B": "b", "C": "$(B)-127.0.0.1b"}


def test_env_wins_over_env_from_and_later_env_from_over_earlier() -> None:
    made = env(
        {"name": "A", "value": "own"},
        envFrom=[{"configMapRef": {"name": "conf"}}, {"prefix": "S_", "secretRef": {"name": "keys"}}],
    )
    assert made == {"LEVEL": "debug", "A": "own", "S_key": "s3cret"}


def test_key_references_give_their_values() -> None:
    made = env(
        {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "LEVEL"}}},
        {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}},
    )
    assert made == {"X": "debug", "Y": "s3cret"}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"secretKeyRef": {"name": "gone", "key": "k"}}, 'secret "gone" not found'),
        ({"configMapKeyRef": {"name": "conf", "key": "k"}}, "couldn't find key k in configmap conf"),
        ({"fileKeyRef": {"path": "x"}}, "fileKeyRef is not supported"),
    ],
)
def test_a_missing_or_unknown_reference_is_refused_by_name(reference: JsonObject, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        env({"name": "X", "valueFrom": reference})


def test_missing_optional_references_leave_the_variable_out() -> None:
    gone = {"name": "gone", "optional": True}
    made = env({"name": "X", "valueFrom": {"secretKeyRef": {**gone, "key": "k"}}}, envFrom=[{"secretRef": gone}])
    assert made == {}


def test_a_missing_env_from_source_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='configmap "gone" not found'):
        env(envFrom=[{"configMapRef": {"name": "gone"}}])


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("metadata.name", "p"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "0123-uid"),
        ("metadata.labels['tandem.dev/role']", "decode"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", 'say "hi"\nthere'),
        ("spec.nodeName", "n1"),
        ("spec.serviceAccountName", "bot"),
        ("status.podIP", "127.9.0.5"),
        ("status.podIPs", "127.9.0.5"),
        ("status.hostIP", "127.0.0.1"),
        ("metadata.annotations", 'note="say \\"hi\\"\\nthere"'),
    ],
)
def test_fields_of_the_pod(path: str, want: str) -> None:
    assert env({"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}) == {"X": want}


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FieldError, match=r"'status.phase' is not one of .*status.podIP"):
        fields().field("status.phase")


@pytest.mark.parametrize(
    ("resource", "divisor", "want"),
    [
        ("limits.memory", "1Mi", "2048"),
        ("limits.memory", "0", str(2 * 2**30)),
        ("requests.cpu", "1", "2"),
        ("requests.cpu", "1m", "1500"),
        ("limits.cpu", "1", "16"),
        ("requests.memory", "1", "0"),
    ],
)
def test_resources_are_divided_and_rounded_up_and_fall_back_to_the_node(resource: str, divisor: str, want: str) -> None:
    container = {
        "name": "main",
        "resources": {"limits": {"memory": "2Gi"}, "requests": {"cpu": "1500m"}},
    }
    reference = {"resource": resource, "divisor": divisor}
    assert fields(make_pod(container)).resource(reference, "main") == want


def test_a_resource_of_an_unknown_container_is_refused() -> None:
    with pytest.raises(FieldError, match="'other', which the pod does not have"):
        fields().resource({"resource": "limits.cpu", "containerName": "other"}, "main")


def test_all_named_objects_are_found_once() -> None:
    spec = {
        "envFrom": [{"configMapRef": {"name": "conf"}}],
        "env": [
            {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "k"}}},
            {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}},
            {"name": "Z", "value": "plain"},
        ],
    }
    assert named_sources(spec) == [CONF, KEYS]
