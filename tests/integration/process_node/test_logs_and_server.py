"""kubectl logs through the API server; and what the node's server refuses."""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.error
import urllib.request

import pytest
from integration.process_node.conftest import Pods, within

from cluster.errors import ClusterError

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def talker(pods: Pods) -> str:
    """A pod that has printed three lines and gone on."""
    pods.create("talker", {"command": ["sh", "-c", "echo one; echo two >&2; sleep 0.2; echo three; sleep 300"]})
    pods.wait_ready("talker")
    within(5, lambda: pods.kubectl("logs", "talker").count("\n") == 3, "three lines")
    return "talker"


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ([], "one\ntwo\nthree\n"),
        (["--tail=1"], "three\n"),
        (["--limit-bytes=5"], "one\nt"),
        (["--since=1h", "--tail=2"], "two\nthree\n"),
        (["--container=main"], "one\ntwo\nthree\n"),
    ],
)
def test_log_options(pods: Pods, talker: str, options: list[str], want: str) -> None:
    lines = pods.kubectl("logs", talker, *options).splitlines(keepends=True)
    assert sorted(lines) == sorted(want.splitlines(keepends=True))  # two streams have no common order


def test_timestamps_are_those_of_the_lines(pods: Pods, talker: str) -> None:
    (line,) = pods.kubectl("logs", talker, "--timestamps", "--tail=1").splitlines()
    stamp, text = line.split(" ")
    assert text == "three"
    assert stamp.startswith("20")
    assert stamp.endswith("Z")


def test_following_ends_with_the_container_and_misses_nothing(pods: Pods) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done"
    pods.create("counter", {"command": ["sh", "-c", script]}, restartPolicy="Never")
    pods.wait("counter", lambda pod: pod["status"]["phase"] != "Pending")
    command = [str(pods.cluster.bin_dir / "kubectl"), f"--namespace={pods.namespace}", "logs", "-f", "counter"]
    done = subprocess.run(
        command, env=pods.cluster.environment(), capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.split() == list("12345678")


def test_what_has_no_log_says_why(pods: Pods, talker: str) -> None:
    with pytest.raises(ClusterError, match='previous terminated container "main" not found'):
        pods.kubectl("logs", talker, "--previous")
    pods.create("logless", {"image": "no/image"})
    pods.wait_waiting("logless", "ErrImagePull")
    with pytest.raises(ClusterError, match="is waiting to start"):
        pods.kubectl("logs", "logless")


@pytest.mark.parametrize(
    "command", [["exec", "talker", "--", "true"], ["attach", "talker"], ["port-forward", "talker", ":8000"]]
)
def test_exec_attach_and_port_forward_say_that_they_are_out_of_scope(
    pods: Pods, talker: str, command: list[str]
) -> None:
    with pytest.raises(ClusterError, match="is out of scope of the process node"):
        pods.kubectl(*command)


def test_the_server_gives_logs_only_to_holders_of_a_client_certificate(pods: Pods, talker: str) -> None:
    node = json.loads(pods.cluster.kubectl("get", "node", pods.node.name, "-o", "json"))
    base = f"https://127.0.0.1:{node['status']['daemonEndpoints']['kubeletEndpoint']['Port']}"
    context = ssl.create_default_context(cafile=str(pods.cluster.run.keys / "ca.crt"))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    assert opener.open(f"{base}/healthz", timeout=5).read() == b"ok"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        opener.open(f"{base}/containerLogs/{pods.namespace}/{talker}/main", timeout=5)
