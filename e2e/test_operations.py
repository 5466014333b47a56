"""What an operator of fleets does on an ordinary day, on engine `sim`."""

from __future__ import annotations

import concurrent.futures

import pytest

from cluster.api import Cluster
from demo.asking import ask
from demo.errors import DemoError
from demo.installation import Installation
from demo.milestones import condition_of
from fleets import Fleets, build_sim_fleet

pytestmark = pytest.mark.timeout(300)

GATED = {"name": "gated", "source": "hf://nobody/gated", "tokenSecret": {"name": "absent", "key": "token"}}
SIXTEEN_GPUS = {"replicas": 1, "parallelism": {"tensor": 16}, "resources": {"gpu": 16}}  # a node has eight


def test_a_fleet_serves_and_says_so(fleets: Fleets, router_url: str) -> None:
    """Ready means that the router answers with this fleet's workers, one of each role."""
    fleets.apply(build_sim_fleet("serves"))
    fleets.wait_ready("serves")
    answer = ask(router_url, "serves", "hello " * 200, 16)
    assert answer.usage["completion_tokens"] == 16
    assert "prefill" in answer.served_by
    assert "decode" in answer.served_by
    fleets.wait_condition("serves", "DisaggregationEffective", "RemotePrefillSeen", timeout_s=30)


def test_fixed_sizes_follow_the_object_and_revert_drift(cluster: Cluster, tandem: Installation, fleets: Fleets) -> None:
    """spec.decode.replicas decides, also after somebody scaled the WorkerPool by hand."""
    fleets.apply(build_sim_fleet("fixed"))
    fleets.wait_ready("fixed")
    tandem.objects.patch_spec("fixed", {"decode": {"replicas": 2}})
    fleets.wait_pods("fixed", "decode", 2)
    cluster.kubectl("-n", tandem.objects.namespace, "scale", "workerpool/fixed-decode", "--replicas=4")
    fleets.wait_ready("fixed")
    fleets.wait_pods("fixed", "decode", 2)


def test_external_sizes_are_left_alone(cluster: Cluster, tandem: Installation, fleets: Fleets) -> None:
    """kubectl scale decides, and a spec change does not move it back."""
    fleets.apply(build_sim_fleet("external", autoscaling={"mode": "External"}))
    fleets.wait_ready("external")
    cluster.kubectl("-n", tandem.objects.namespace, "scale", "workerpool/external-decode", "--replicas=3")
    fleets.wait_pods("external", "decode", 3)
    tandem.objects.patch_spec("external", {"drain": {"timeoutSeconds": 10}})
    fleets.wait_ready("external")
    fleets.wait_pods("external", "decode", 3)


def test_scale_in_loses_no_stream(tandem: Installation, fleets: Fleets, router_url: str) -> None:
    """Streams that run on a worker that has to go are finished by it."""
    fleets.apply(build_sim_fleet("shrinks", decode={"replicas": 3}))
    fleets.wait_ready("shrinks")
    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        streams = [threads.submit(ask, router_url, "shrinks", f"stream {n} " * 40, 300) for n in range(12)]
        tandem.objects.patch_spec("shrinks", {"decode": {"replicas": 1}})
        answers = [stream.result() for stream in streams]
    assert [answer.usage["completion_tokens"] for answer in answers] == [300] * 12
    fleets.wait_pods("shrinks", "decode", 1)


def test_a_template_change_never_leaves_the_fleet_without_workers(
    tandem: Installation, fleets: Fleets, router_url: str
) -> None:
    """Requests go on while both roles roll to a new kv-revision."""
    fleets.apply(build_sim_fleet("rolls"))
    before = fleets.wait_ready("rolls")["status"]["kvRevision"]
    old_pods = {pod.metadata.name for pod in fleets.pods("rolls")}
    tandem.objects.patch_spec("rolls", {"engine": {"kvCache": {"blockSize": 64}}})
    served = 0
    while condition_of(fleets.fetch("rolls"), "Ready").get("status") != "True" or not served:
        served += ask(router_url, "rolls", f"while rolling {served} " * 20, 4).usage["completion_tokens"] // 4
    after = fleets.wait_ready("rolls")
    assert after["status"]["kvRevision"] != before
    assert not old_pods & {pod.metadata.name for pod in fleets.pods("rolls")}


def test_deleting_a_fleet_leaves_nothing(cluster: Cluster, tandem: Installation, fleets: Fleets) -> None:
    """Children go by owner references; there is no finalizer to get stuck on."""
    fleets.apply(build_sim_fleet("goes"))
    assert "finalizers" not in fleets.wait_ready("goes")["metadata"]
    fleets.delete_all()
    kinds = "workerpools,deployments,services,secrets,networkpolicies,poddisruptionbudgets"
    left = cluster.kubectl("-n", tandem.objects.namespace, "get", kinds, "-l", "tandem.dev/fleet=goes", "-o", "name")
    assert left == ""


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"autoscaling": {"mode": "Objectives"}}, "autoscaling.mode"),
        ({"kvTransfer": {"connector": "nccl", "tls": {"secretName": "kv"}}}, "kvTransfer.tls"),
        ({"decode": {"replicas": 1, "resources": {"memory": "lots"}}}, "spec.decode.resources.memory"),
        ({"decode": {"replicas": 1, "parallelism": {"tensor": 2, "context": 3}}}, "parallelism.context"),
        ({"engine": {"type": "sim", "extraArgs": ["--port=1"]}}, "extraArgs"),
    ],
)
def test_what_cannot_work_is_refused_at_admission(fleets: Fleets, change: dict[str, object], names: str) -> None:
    """The API server's message names the field."""
    with pytest.raises(DemoError, match=names):
        fleets.apply(build_sim_fleet("refused", **change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"engine": {"type": "sim", "workerImage": "nobody/nothing:1"}}, "ImageUnavailable"),
        (dict.fromkeys(("prefill", "decode"), SIXTEEN_GPUS), "InsufficientGPU"),
        ({"model": GATED}, "SecretMissing"),
        ({"kvTransfer": {"connector": "tcp", "tls": {"secretName": "absent"}}}, "VolumeUnavailable"),
    ],
)
def test_a_bad_change_is_named_and_what_serves_is_untouched(
    tandem: Installation, fleets: Fleets, router_url: str, change: dict[str, object], reason: str
) -> None:
    """The condition carries the reason, the old workers go on serving, and taking it back heals."""
    name = f"bad-{reason.lower()}"
    fleets.apply(build_sim_fleet(name))
    fleets.wait_ready(name)
    serving = {pod.metadata.name for pod in fleets.pods(name)}
    changed = build_sim_fleet(name, **change)
    changed["spec"]["model"]["servedName"] = name
    fleets.apply(changed)
    condition = fleets.wait_condition(name, "DecodeReady", reason)
    assert condition["status"] == "False"
    assert serving <= {pod.metadata.name for pod in fleets.pods(name)}
    assert ask(router_url, name, "still there? " * 20, 4).usage["completion_tokens"] == 4
    fleets.apply(build_sim_fleet(name))
    fleets.wait_ready(name)
    assert serving == {pod.metadata.name for pod in fleets.pods(name)}


def test_a_decode_worker_that_dies_mid_stream_ends_it_with_a_typed_error(
    tandem: Installation, fleets: Fleets, router_url: str
) -> None:
    """Never a silent cut: the stream's last event says what happened."""
    fleets.apply(build_sim_fleet("dies"))
    fleets.wait_ready("dies")
    victim = fleets.pods("dies", "decode")[0].metadata.name
    seen: list[str] = []

    def kill_after_some(text: str) -> None:
        seen.append(text)
        if len(seen) == 20:
            tandem.objects.kill_pod(victim)

    with pytest.raises(DemoError, match="ended with an error"):
        ask(router_url, "dies", "a long story " * 40, 2000, kill_after_some)
    assert len(seen) >= 20
    fleets.wait_ready("dies")
    assert ask(router_url, "dies", "and again " * 40, 8).usage["completion_tokens"] == 8
