"""What pods are given: environment, volumes, tokens; and what they are told when it is missing."""

from __future__ import annotations

import json
import sys

import pytest
from integration.process_node.conftest import IMAGE, Json, Pods, within

pytestmark = pytest.mark.integration


def python(script: str, **more: object) -> Json:
    return {"command": ["python", "-c", script], **more}


@pytest.fixture(scope="module", autouse=True)
def objects(pods: Pods) -> None:
    pods.kubectl(
        "create", "configmap", "conf", "--from-literal=level=debug", '--from-literal=app.json={"dir": "/data"}'
    )
    pods.kubectl("create", "secret", "generic", "keys", "--from-literal=key=s3cret")


def test_environment_from_everywhere(pods: Pods) -> None:
    env = [
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}},
        {"name": "MIB", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "PATHS", "value": "/data/$(NAME):/opt/data"},
    ]
    script = "import os, json, sys; print(json.dumps({**os.environ, 'PREFIX': sys.prefix, 'ARG': sys.argv[1]}))"
    container = python(
        script,
        args=["--out=/data/$(NAME)"],
        env=env,
        envFrom=[{"prefix": "C_", "configMapRef": {"name": "conf"}}],
        resources={"limits": {"memory": "1Gi"}},
        volumeMounts=[{"name": "data", "mountPath": "/data"}],
    )
    pods.create("told", container, volumes=[{"name": "data", "emptyDir": {}}], restartPolicy="Never")
    pod = pods.wait_phase("told", "Succeeded")
    seen = json.loads(pods.kubectl("logs", "told"))
    data = str(pods.node.folders.pod(pod["metadata"]["uid"]).short / "v/data")
    want = {
        "NAME": "told",
        "NODE": pods.node.name,
        "IP": pod["status"]["podIP"],
        "KEY": "s3cret",
        "MIB": "1024",
        "C_level": "debug",
        "PATHS": f"{data}/told:/opt/data",
        "ARG": f"--out={data}/told",
        "PREFIX": sys.prefix,
        "HOSTNAME": "told",
    }
    assert {name: seen.get(name) for name in want} == want
    assert "TANDEM_NODE_BACKOFF_S" not in seen


def test_the_service_account_folder_talks_to_the_api_server(pods: Pods) -> None:
    script = """
import os, ssl, urllib.request
folder = os.environ["TANDEM_SERVICEACCOUNT_DIR"]
token = open(folder + "/token").read()
url = "https://{KUBERNETES_SERVICE_HOST}:{KUBERNETES_SERVICE_PORT}/api/v1".format(**os.environ)
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),
    urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=folder + "/ca.crt")),
)
print(opener.open(request, timeout=10).status, open(folder + "/namespace").read())
"""
    pods.create("caller", python(script), restartPolicy="Never")
    pods.wait_phase("caller", "Succeeded")
    assert pods.kubectl("logs", "caller") == f"200 {pods.namespace}\n"


def test_a_projected_token_has_its_audience_and_names_its_pod(pods: Pods) -> None:
    token = {"serviceAccountToken": {"path": "deep/token", "audience": "tandem", "expirationSeconds": 600}}
    labels = {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}
    container = python(
        "print(open('/id/deep/token').read()); print(open('/id/name').read())",
        volumeMounts=[{"name": "id", "mountPath": "/id"}],
    )
    volume = {"name": "id", "projected": {"sources": [token, labels]}}
    pods.create("bearer", container, volumes=[volume], restartPolicy="Never")
    uid = pods.wait_phase("bearer", "Succeeded")["metadata"]["uid"]
    text, name = pods.kubectl("logs", "bearer").split()
    assert name == "bearer"
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": text, "audiences": ["tandem"]},
    }
    answer = json.loads(pods.cluster.kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(review)))["status"]
    assert answer["authenticated"]
    assert answer["user"]["extra"]["authentication.kubernetes.io/pod-uid"] == [uid]


def test_files_of_volumes_have_their_content_mode_and_sub_path(pods: Pods) -> None:
    script = """
import os
print(open("/conf/level").read(), open("/one.json").read(), oct(os.stat("/keys/key").st_mode & 0o777))
open("/data/sub/made", "w").write("x")
print(os.path.exists("/data/sub/made"), open("/keys/key").read())
"""
    mounts = [
        {"name": "conf", "mountPath": "/conf"},
        {"name": "conf", "mountPath": "/one.json", "subPath": "app.json"},
        {"name": "keys", "mountPath": "/keys"},
        {"name": "data", "mountPath": "/data/sub", "subPath": "deep/er"},
    ]
    volumes = [
        {"name": "conf", "configMap": {"name": "conf"}},
        {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o400}},
        {"name": "data", "emptyDir": {"medium": "Memory"}},
    ]
    pods.create("reader", python(script, volumeMounts=mounts), volumes=volumes, restartPolicy="Never")
    pods.wait_phase("reader", "Succeeded")
    assert pods.kubectl("logs", "reader") == 'debug {"dir": "/data"} 0o400\nTrue s3cret\n'


def test_changed_config_maps_and_secrets_reach_running_pods(pods: Pods) -> None:
    pods.kubectl("create", "configmap", "changing", "--from-literal=a=old")
    script = """
import time
last = None
while True:
    text = open("/conf/a").read()
    if text != last: print(text, flush=True)
    last = text
    time.sleep(0.2)
"""
    container = python(script, volumeMounts=[{"name": "conf", "mountPath": "/conf"}])
    pods.create("watcher", container, volumes=[{"name": "conf", "configMap": {"name": "changing"}}])
    pods.wait_ready("watcher")
    within(5, lambda: pods.kubectl("logs", "watcher") == "old\n", "the first content is seen")
    pods.kubectl("patch", "configmap", "changing", "-p", '{"data": {"a": "new"}}')
    within(15, lambda: pods.kubectl("logs", "watcher") == "old\nnew\n", "the change is seen")


def test_a_missing_secret_in_env_is_named_and_the_pod_starts_once_it_is_there(pods: Pods) -> None:
    env = [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "later", "key": "k"}}}]
    pods.create("waiting", python("import os; print(os.environ['X'])", env=env), restartPolicy="Never")
    assert pods.wait_waiting("waiting", "CreateContainerConfigError") == 'secret "later" not found'
    assert pods.get("waiting")["status"]["phase"] == "Pending"
    pods.kubectl("create", "secret", "generic", "later", "--from-literal=k=v")
    pods.wait_phase("waiting", "Succeeded")
    assert pods.kubectl("logs", "waiting") == "v\n"


def test_a_missing_volume_source_is_an_event_and_the_pod_stays_pending_until_it_is_there(pods: Pods) -> None:
    volume = {"name": "v", "configMap": {"name": "absent"}}
    container = python("print(open('/v/a').read())", volumeMounts=[{"name": "v", "mountPath": "/v"}])
    pods.create("mountless", container, volumes=[volume], restartPolicy="Never")
    assert 'configmap "absent" not found' in pods.wait_event("mountless", "FailedMount")
    assert pods.get("mountless")["status"]["phase"] == "Pending"
    pods.kubectl("create", "configmap", "absent", "--from-literal=a=here")
    pods.wait_phase("mountless", "Succeeded")


def test_a_host_path_is_refused_with_the_kinds_that_work(pods: Pods) -> None:
    volume = {"name": "v", "hostPath": {"path": "/etc"}}
    container = python("pass", volumeMounts=[{"name": "v", "mountPath": "/v"}])
    pods.create("nosy", container, volumes=[volume], restartPolicy="Never")
    assert "hostPath is not supported by the process node; use emptyDir" in pods.wait_event("nosy", "FailedMount")
    pods.kubectl("delete", "pod", "nosy", "--timeout=10s")


def test_an_unknown_image_is_an_error_until_the_table_has_it(pods: Pods) -> None:
    pods.create("unknown", {**python("print('hello')"), "image": "nowhere/none:1"}, restartPolicy="Never")
    assert "'nowhere/none:1' is not in the image table" in pods.wait_waiting("unknown", "ImagePullBackOff")
    pods.wait_event("unknown", "Failed", "Failed to pull image")
    pods.node.image_table.write_text(json.dumps({name: {"venv": sys.prefix} for name in (IMAGE, "nowhere/none:1")}))
    pods.wait_phase("unknown", "Succeeded")


def test_a_program_that_does_not_exist_is_a_start_error(pods: Pods) -> None:
    pods.create("mistyped", {"command": ["pyhton"]}, restartPolicy="Never")
    state = pods.wait_phase("mistyped", "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (state["reason"], state["exitCode"]) == ("StartError", 128)
    assert "'pyhton': executable file not found" in state["message"]


def test_pods_that_cannot_start_are_deleted_at_once(pods: Pods) -> None:
    pods.create("hopeless", {**python("pass"), "image": "nowhere/else"}, terminationGracePeriodSeconds=60)
    pods.wait_waiting("hopeless", "ErrImagePull")
    pods.kubectl("delete", "pod", "hopeless", "--timeout=5s")
