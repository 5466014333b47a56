"""The generated definitions on a real API server: each rule admits what is right and refuses what is wrong, by name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from integration.operator.conftest import Kube, make_manifest
from property.kv.world import build_engine

from cluster.client import connect
from cluster.errors import ClusterError
from tandem_api.labels import API_VERSION
from tandem_api.v1alpha1 import InferenceDeployment, InferenceDeploymentSpec
from tandem_operator.crdgen import build_schema
from tandem_worker.kv.compatibility import find_mismatch
from tandem_worker.kv.messages import GroupShape

pytestmark = pytest.mark.integration

HUB = {"name": "org/model"}
POOL = {"replicas": 1}


OBJECTIVES = {"ttft": {"seconds": 2}, "tpot": {"percentile": "p99", "seconds": 0.05}}
SCALED = {
    "engine": {"type": "sim", "performanceProfile": "8b-h100-tp1"},
    "prefill": {"max": 4},
    "decode": {"max": 8},
    "objectives": OBJECTIVES,
    "autoscaling": {"mode": "Objectives"},
}
MODEL = {"p1Ms": 0.04, "d0Ms": 7.0, "kvCapacityTokens": 400_000}
NIGHT = {"start": "22:00", "end": "06:00", "timeZone": "Europe/Berlin", "days": ["Fri", "Sat"], "decodeMin": 2}

STORE = {"endpoint": "https://objects.example:9000", "region": "eu-1", "credentialsSecret": "bucket", "image": "a/b:1"}
ADAPTER = {"name": "a", "source": "hf://a/b"}
NGRAM, MTP = {"method": "ngram", "tokens": 2}, {"method": "mtp", "tokens": 1}
DRAFT = {"method": "draft_model", "tokens": 2, "source": "hf://a/b"}
WIDE = {f"parallelism.{kind}": {"parallelism": {kind: 2}} for kind in ("pipeline", "data")} | {
    "parallelism.context": {"parallelism": {"tensor": 2, "context": 2}},
    "nodes": {"nodes": 2, "parallelism": {"tensor": 2}},
}
SPREAD = {"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
NODES = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h200"]}]}]}
NEAR = {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "rack"}
SHAPED = {
    "labels": {"team": "a"},
    "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
    "env": [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
    ],
    "tolerations": [{"operator": "Exists"}],
    "affinity": {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": NODES},
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": NEAR}],
            "requiredDuringSchedulingIgnoredDuringExecution": [NEAR],
        },
    },
    "topologySpreadConstraints": [{"maxSkew": 1, **SPREAD}],
    "schedulerName": "gang",
    "priorityClassName": "serving",
    "runtimeClassName": "nvidia",
    "imagePullSecrets": [{"name": "pull"}],
    "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "four-gpus"}],
}


def pool(**parts: Any) -> dict[str, Any]:
    return {**POOL, **parts}


@pytest.fixture(scope="module")
def try_apply(tandem_kube: Kube) -> Iterator[Any]:
    """Creates without storing: the server runs all of its validation."""
    cluster, path = tandem_kube.cluster, f"/apis/{API_VERSION}/namespaces/{tandem_kube.namespace}/inferencedeployments"
    with connect(cluster.kubeconfig, cluster.run.keys / "ca.crt") as client:
        yield lambda manifest: client.create(f"{path}?dryRun=All&fieldValidation=Strict", manifest)


ADMITTED = [
    {},
    {"model": HUB},
    {"model": {**HUB, "revision": "main", "tokenSecret": {"name": "hub"}}},
    {"model": {"name": "x", "source": "pvc://claim/models/x"}},
    {"prefill": None},
    {"model": {"name": "x", "source": "oci://registry.example:5000/team/x@sha256:0123#weights/x"}},
    {"model": {"name": "x", "source": "s3://team-models/x", "objectStore": STORE}},
    {"model": {**HUB, "cache": {"claimName": "weights"}, "adapters": [{"name": "sql", "source": "hf://org/sql"}]}},
    {"prefill": None, "decode": pool(parallelism={"pipeline": 2})},
    {"prefill": None, "decode": pool(parallelism={"tensor": 8, "data": 2, "expert": True, "context": 2}, nodes=2)},
    {"prefill": pool(parallelism={"tensor": 8}), "decode": pool(parallelism={"tensor": 2})},
    {"engine": {"quantization": "awq_marlin", "kvCache": {"dtype": "fp8_e5m2"}, "lora": {"maxRank": 64}}},
    {"engine": {"speculative": {"method": "ngram", "tokens": 4, "promptLookupMin": 2, "promptLookupMax": 4}}},
    {"engine": {"speculative": {"method": "eagle3", "tokens": 3, "source": "hf://org/head", "revision": "v1"}}},
    {"engine": {"speculative": {"method": "mtp", "tokens": 1}}},
    {"kvTransfer": {"locality": {"topologyKey": "topology.kubernetes.io/zone", "required": True}}},
    {"decode": pool(podTemplate=SHAPED)},
    {"engine": {"extraArgs": ["--max-logprobs=5", "--seed", "7", "-O3", "--logprobs-mode", "-1"]}},
    {"autoscaling": {"mode": "External"}},
    {"decode": pool(podTemplate={"labels": {"team": "a"}, "nodeSelector": {"gpu": "h200"}})},
    {"objectives": OBJECTIVES},
    {"objectives": {"ttft": {"seconds": 2}}},
    SCALED,
    {**SCALED, "engine": {"type": "sim", "performanceModel": MODEL}},
    {**SCALED, "autoscaling": {"advisory": True}},
    {**SCALED, "autoscaling": {"mode": "Objectives", "gpuBudget": 8, "ratio": {"min": 0.5}, "schedules": [NIGHT]}},
    {"decode": {"min": 0, "max": 1}},
    {"regions": [{"name": "eu"}, {"name": "us", "prefill": {"min": 0, "max": 2}, "performanceModel": MODEL}]},
    {"regions": [{"name": f"r{number}", "decode": {"parallelism": {"tensor": 2}}} for number in range(32)]},
]

REFUSED = [
    ({"model": {"name": "x"}}, "model.source is missing"),
    ({"model": {"name": "x", "source": "pvc://claim/../etc"}}, "may not contain"),
    ({"model": {"name": "x", "source": "pvc://claim", "revision": "main"}}, "model.revision goes with hf://"),
    ({"model": {"name": "x", "source": "http://evil"}}, "spec.model.source"),
    ({"model": {**HUB, "revision": "-x"}}, "model.revision must be a branch, tag or commit"),
    ({"model": {**HUB, "tokenSecret": {"name": "tandem-root"}}}, "names a Secret that is Tandem's own"),
    ({"kvTransfer": {"tls": {"secretName": "tandem-root"}}}, "kvTransfer.tls.secretName names a Secret"),
    ({"model": {**HUB, "tokenSecret": {"name": "other/hub"}}}, "spec.model.tokenSecret.name"),
    ({"model": {"name": "x", "source": "s3://b-b/x", "objectStore": {"credentialsSecret": "a-keys"}}}, "objectStore"),
    ({"model": {"name": "x", "source": "s3://b-b/x", "objectStore": {"endpoint": "http://a/b?c"}}}, "endpoint"),
    ({"model": {"name": "x", "source": "s3://b-b/$(id)"}}, "spec.model.source"),
    ({"model": {"name": "x", "source": "s3://b-b/x --endpoint-url y"}}, "spec.model.source"),
    ({"model": {**HUB, "adapters": [{"name": "org/model", "source": "hf://a/b"}]}}, "is the name of the model itself"),
    ({"model": {**HUB, "adapters": [ADAPTER, ADAPTER]}}, "spec.model.adapters[1]"),
    ({"model": {**HUB, "adapters": [{"name": "a", "source": "pvc://c/../d"}]}}, "adapters[].source may not contain"),
    ({"model": {**HUB, "adapters": [{"name": "a", "source": "synthetic://tiny-llama"}]}}, "no synthetic adapter"),
    ({"model": {**HUB, "adapters": [{"name": "a=b", "source": "hf://a/b"}]}}, "spec.model.adapters[0].name"),
    ({"engine": {"speculative": {"method": "eagle", "tokens": 2}}}, "this method needs the weights of its draft"),
    ({"engine": {"speculative": {**NGRAM, "source": "hf://a/b"}}}, "ngram and mtp have no weights of their own"),
    ({"engine": {"speculative": {**MTP, "promptLookupMax": 3}}}, "go with method ngram only"),
    ({"engine": {"speculative": {**NGRAM, "promptLookupMin": 4, "promptLookupMax": 3}}}, "above promptLookupMax"),
    ({"engine": {"speculative": {**DRAFT, "source": "pvc://c", "revision": "x"}}}, "speculative.revision goes with hf"),
    ({"engine": {"speculative": {**DRAFT, "revision": "-x"}}}, "engine.speculative.revision must be a branch"),
    ({"engine": {"speculative": {**DRAFT, "source": "pvc://c/.."}}}, "engine.speculative.source may not contain"),
    ({"engine": {"speculative": {**NGRAM, "tokens": 0}}}, "spec.engine.speculative.tokens"),
    ({"engine": {"lora": {"maxInBatch": 4, "maxInMemory": 2}}}, "engine.lora.maxInMemory is below maxInBatch"),
    ({"engine": {"lora": {"maxRank": 5}}}, "spec.engine.lora.maxRank"),
    ({"engine": {"quantization": "fp7"}}, "spec.engine.quantization"),
    ({"engine": {"attentionBackend": "flash"}}, "spec.engine.attentionBackend"),
    ({"prefill": pool(parallelism={"tensor": 4}), "decode": pool(parallelism={"tensor": 6})}, "make one a multiple"),
    ({"decode": pool(parallelism={"tensor": 4, "context": 3})}, "parallelism.context must divide"),
    *(
        ({role: pool(**shape)}, f"spec.{role}.{field} must be 1 when KV is handed over")
        for role in ("prefill", "decode")
        for field, shape in WIDE.items()
    ),
    *(
        ({"kvTransfer": {"connector": name, "tls": {"secretName": "kv"}}}, "kvTransfer.tls goes with")
        for name in ("nccl", "nixl")
    ),
    ({**SCALED, "objectives": None}, "needs objectives.ttft.seconds and objectives.tpot.seconds"),
    ({**SCALED, "objectives": {"ttft": {"seconds": 2}}}, "needs objectives.ttft.seconds and objectives.tpot.seconds"),
    ({**SCALED, "engine": {"type": "sim"}}, "set engine.performanceProfile, or engine.performanceModel"),
    ({**SCALED, "engine": None}, "set engine.performanceProfile, or engine.performanceModel"),
    ({**SCALED, "prefill": {}}, "set spec.prefill.max and spec.decode.max"),
    ({**SCALED, "prefill": None}, "add spec.prefill"),
    ({**SCALED, "decode": {"min": 9, "max": 8}}, "min is above max"),
    ({"autoscaling": {"advisory": True}}, "(or advisory) needs"),
    ({"rollout": {"maxSurge": 0, "maxUnavailable": "0%"}}, "may not both be 0"),
    ({"rollout": {"strategy": "Recreate", "steps": [{"traffic": "10%"}]}}, "rollout.steps need both revisions at once"),
    ({"rollout": {"steps": [{"traffic": "50%"}, {"traffic": "10%"}]}}, "traffic must grow from step to step"),
    ({"autoscaling": {"ratio": {"min": 2, "max": 1}}}, "autoscaling.ratio.min is above ratio.max"),
    ({"autoscaling": {"gpuBudget": 0}}, "spec.autoscaling.gpuBudget"),
    ({"autoscaling": {"scaleToZeroAfterSeconds": 5}}, "spec.autoscaling.scaleToZeroAfterSeconds"),
    ({"autoscaling": {"schedules": [{**NIGHT, "start": "24:00"}]}}, "spec.autoscaling.schedules[0].start"),
    ({"autoscaling": {"schedules": [{**NIGHT, "days": ["Someday"]}]}}, "spec.autoscaling.schedules[0].days[0]"),
    ({"objectives": {"ttft": {"seconds": 2, "percentile": "p100"}}}, "spec.objectives.ttft.percentile"),
    ({"engine": {"type": "sim", "performanceModel": {**MODEL, "p1Ms": 0}}}, "spec.engine.performanceModel.p1Ms"),
    *(
        ({"engine": {"extraArgs": [argument]}}, "extraArgs may not set what Tandem owns")
        for argument in ("--kv-transfer-config={}", "--kv_transfer_config.kv_role=x", "--no-enable-lora", "-tp=2", "--")
    ),
    ({"decode": pool(engineOverrides={"extraArgs": ["--port", "1"]})}, "extraArgs may not set what Tandem owns"),
    ({"prefill": pool(engineOverrides={"extraArgs": ["-q", "fp8"]})}, "extraArgs may not set what Tandem owns"),
    ({"decode": pool(podTemplate={"labels": {"tandem.dev/role": "x"}})}, "podTemplate.labels may not use"),
    ({"decode": pool(podTemplate={"annotations": {"app.kubernetes.io/name": "x"}})}, "podTemplate.annotations may not"),
    *(
        ({"decode": pool(podTemplate=template)}, message)
        for template, message in (
            ({"annotations": {"a.seccomp.security.alpha.kubernetes.io/x": ""}}, "may not change what confines the pod"),
            ({"annotations": {"container.apparmor.security.beta.kubernetes.io/worker": "unconfined"}}, "what confines"),
            ({"annotations": {"sidecar.istio.io/userVolume": "{}"}}, "may not change what confines the pod"),
            (
                {"priorityClassName": "system-node-critical"},
                "podTemplate.priorityClassName may not be one of the system",
            ),
            ({"imagePullSecrets": [{"name": "tandem-router"}]}, "imagePullSecrets names a Secret that is Tandem's own"),
            (
                {"env": [{"name": "TANDEM_WORKER", "value": "{}"}]},
                "podTemplate.env[].name is a variable that Tandem sets",
            ),
            ({"env": [{"name": "PYTHONPATH", "value": "/x"}]}, "podTemplate.env[].name is a variable that Tandem sets"),
            ({"env": [{"name": "A"}]}, "podTemplate.env[] needs one of value and valueFrom"),
            ({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}, "podTemplate.env[1]"),
            ({"env": [{"name": "A B", "value": ""}]}, "podTemplate.env[0].name"),
            ({"env": [{"name": "A", "valueFrom": {}}]}, "valueFrom needs one of secretKeyRef and configMapKeyRef"),
            (
                {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "b-keys"}}}]},
                "Secret that is Tandem's own",
            ),
            ({"resourceClaims": [{"name": "gpu"}]}, "set one of resourceClaimName and resourceClaimTemplateName"),
            ({"topologySpreadConstraints": [{"maxSkew": 0, **SPREAD}]}, "topologySpreadConstraints[0].maxSkew"),
        )
    ),
    ({"regions": [{"name": "eu"}, {"name": "eu"}]}, "spec.regions[1]"),
    ({"regions": [{"name": "EU"}]}, "spec.regions[0].name"),
    ({"regions": [{"name": "eu", "decode": {"min": 3, "max": 2}}]}, "regions[]: min is above max"),
    ({"regions": [{"name": "eu", "prefill": {}}], "prefill": None}, "changes a pool that the fleet does not have"),
    (
        {"regions": [{"name": "eu", "performanceProfile": "8b-h100-tp1", "performanceModel": MODEL}]},
        "regions[]: performanceProfile and performanceModel say the same thing",
    ),
    ({"decode": pool(resources={"memory": "lots"})}, "spec.decode.resources.memory"),
    ({"decode": pool(replicas=-1)}, "spec.decode.replicas"),
    ({"decode": None}, "spec.decode"),
    ({"engine": {"image": "x; rm -rf /"}}, "spec.engine.image"),
    ({"engine": {"kvCache": {"blockSize": 7}}}, "spec.engine.kvCache.blockSize"),
    ({"engine": {"kvCache": {"gpuMemoryUtilization": 0}}}, "spec.engine.kvCache.gpuMemoryUtilization"),
]


@pytest.mark.parametrize("spec", ADMITTED, ids=str)
def test_what_is_right_is_admitted(try_apply: Any, spec: dict[str, Any]) -> None:
    try_apply(make_manifest("right", **spec))


@pytest.mark.parametrize(("spec", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_refused_with_field_and_fix(try_apply: Any, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ClusterError) as refusal:
        try_apply(make_manifest("wrong", **spec))
    assert message in str(refusal.value)


def test_every_admission_rule_has_refused_something() -> None:
    schema = build_schema(InferenceDeployment)["properties"]["spec"]
    untested = [rule["message"] for rule in find_rules(schema) if not is_refused_by(rule["message"])]
    assert untested == []


def find_rules(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every CEL rule of a schema."""
    yield from schema.get("x-kubernetes-validations", ())
    inner = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for part in inner:
        if isinstance(part, dict):
            yield from find_rules(part)


def is_refused_by(message: str) -> bool:
    """Whether a row of REFUSED expects this rule's message."""
    return any(expected in message for _, expected in REFUSED)


def test_admission_and_the_handshake_agree_on_the_ratios_of_tensor_parallelism(try_apply: Any) -> None:
    """For a model whose KV heads fit both: whether they fit, only the handshake can know."""
    for prefill, decode in itertools.combinations_with_replacement(range(1, 9), 2):
        heads = GroupShape(layers=["l0"], page_tokens=16, head_bytes_per_token=4, kv_heads=math.lcm(prefill, decode))
        sides = (build_engine(str(tp), tp_size=tp, groups=[heads]) for tp in (prefill, decode))
        spec = {role: pool(parallelism={"tensor": tp}) for role, tp in (("prefill", prefill), ("decode", decode))}
        assert is_admitted(try_apply, spec) == (find_mismatch(*sides) is None), (prefill, decode)


def is_admitted(try_apply: Any, spec: dict[str, Any]) -> bool:
    try:
        try_apply(make_manifest("ratio", **spec))
    except ClusterError as refusal:
        if "make one a multiple of the other" not in str(refusal):
            raise
        return False
    return True


@pytest.mark.parametrize("name", ["a" * 41, "1abc", "a.b"])
def test_a_name_that_does_not_fit_into_child_names_is_refused(try_apply: Any, name: str) -> None:
    with pytest.raises(ClusterError, match="DNS label of at most 40 characters"):
        try_apply(make_manifest(name))


def test_a_long_name_leaves_no_room_for_groups_of_nodes(try_apply: Any) -> None:
    wide = {"prefill": None, "decode": pool(nodes=2, parallelism={"tensor": 2})}
    try_apply(make_manifest("a" * 30, **wide))
    with pytest.raises(ClusterError, match="at most 30 characters where nodes is above 1"):
        try_apply(make_manifest("a" * 31, **wide))
    with pytest.raises(ClusterError, match="at most 30 characters where nodes is above 1"):
        try_apply(make_manifest("a" * 31, regions=[{"name": "eu", "decode": {"nodes": 2}}]))


def test_the_longest_name_is_admitted(try_apply: Any) -> None:
    try_apply(make_manifest("a" * 40))


def test_defaults_are_filled_in_and_nothing_else(tandem_kube: Kube) -> None:
    sent = make_manifest("defaults", prefill=None, decode={}, drain=None)
    tandem_kube.apply(sent)
    stored = tandem_kube.get("infd", "defaults")["spec"]
    tandem_kube.run("delete", "infd", "defaults", "--wait=false")
    assert stored == without_empty(InferenceDeploymentSpec.model_validate(sent["spec"]).to_wire())
    assert stored["decode"]["parallelism"] == {"tensor": 1, "pipeline": 1, "data": 1, "expert": False, "context": 1}
    assert stored["autoscaling"]["mode"] == "Fixed"


def without_empty(value: Any) -> Any:
    """Without the empty lists and maps that the server does not write."""
    if not isinstance(value, dict):
        return value
    return {name: without_empty(inner) for name, inner in value.items() if inner not in ([], {})}


def test_our_reading_of_a_stored_object_gives_back_what_is_stored(tandem_kube: Kube) -> None:
    """The defaults of the models are those of the server: reading adds nothing and loses nothing."""
    tandem_kube.apply(make_manifest("round-trip", objectives={"ttft": {"seconds": 2}}))
    stored = tandem_kube.get("infd", "round-trip")["spec"]
    tandem_kube.run("delete", "infd", "round-trip", "--wait=false")
    again = InferenceDeploymentSpec.model_validate(stored)
    assert again == InferenceDeploymentSpec.model_validate(again.to_wire())
    wire = again.to_wire()
    for part in stored:
        assert {k: wire[part][k] for k in stored[part]} == stored[part]


def test_a_second_manager_conflicts_on_a_field_of_the_first(tandem_kube: Kube) -> None:
    tandem_kube.apply(make_manifest("shared"))
    other = yaml.safe_dump(make_manifest("shared", decode={"replicas": 7}))
    with pytest.raises(ClusterError, match=r"conflict with \"kubectl\".*replicas"):
        tandem_kube.cluster.kubectl(
            "apply", "--server-side", "--field-manager=other", "-n", tandem_kube.namespace, "-f", "-", stdin=other
        )
    tandem_kube.run("delete", "infd", "shared", "--wait=false")


def test_short_names_categories_and_selectable_fields_work(tandem_kube: Kube) -> None:
    tandem_kube.apply(make_manifest("chosen", model={"name": "org/chosen"}))
    found = tandem_kube.run("get", "infd", "--field-selector=spec.model.name=org/chosen", "-o", "name")
    assert found.split() == ["inferencedeployment.tandem.dev/chosen"]
    assert "inferencedeployment.tandem.dev/chosen" in tandem_kube.run("get", "tandem", "-o", "name")
    tandem_kube.run("delete", "infd", "chosen", "--wait=false")


@pytest.mark.parametrize(("field", "other"), [("fleet", "another"), ("role", "decode")])
def test_a_worker_pool_never_changes_whose_it_is(tandem_kube: Kube, field: str, other: str) -> None:
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "WorkerPool",
        "metadata": {"name": f"fixed-{field}"},
        "spec": {"fleet": "fixed", "role": "prefill", "replicas": 1},
    }
    tandem_kube.apply(manifest)
    with pytest.raises(ClusterError, match="never change: delete the WorkerPool"):
        tandem_kube.apply({**manifest, "spec": {**manifest["spec"], field: other}})
    tandem_kube.apply({**manifest, "spec": {**manifest["spec"], "replicas": 2}})
    tandem_kube.run("delete", "wpool", f"fixed-{field}", "--wait=false")
