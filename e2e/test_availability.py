"""The operator dies, or the fleet is deleted, while clients stream: nobody's answer is cut without a word."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from demo.asking import Answer, ask
from demo.errors import DemoError
from demo.installation import RELEASE, Installation
from fleets import Fleets, build_sim_fleet
from steady_load import steady_load
from tandem_api import labels

pytestmark = pytest.mark.timeout(420)

OPERATORS = f"{labels.COMPONENT}={labels.OPERATOR_COMPONENT}"
CLIENTS, TOKENS = 4, 60
LEASE_S = 17.0  # DESIGN §15, from kill to a new leader
APPLY_S = 10.0  # more, for pods to be made on a busy machine
STREAMS, LONG_TOKENS = 8, 400


@contextmanager
def two_operators(tandem: Installation) -> Iterator[None]:
    """A spare replica while the block runs."""
    scale_operators(tandem, 2)
    yield
    scale_operators(tandem, 1)


def scale_operators(tandem: Installation, replicas: int) -> None:
    name, namespace = f"deploy/{RELEASE}-operator", tandem.objects.namespace
    tandem.cluster.kubectl("-n", namespace, "scale", name, f"--replicas={replicas}")
    tandem.cluster.kubectl("-n", namespace, "rollout", "status", name, "--timeout=120s")


def find_leader(tandem: Installation) -> str:
    """The pod that holds the lease."""
    text = tandem.cluster.kubectl("-n", tandem.objects.namespace, "get", "lease", f"{RELEASE}-operator", "-o", "json")
    holder = str(json.loads(text)["spec"].get("holderIdentity") or "")
    pods = [str(pod.metadata.name) for pod in tandem.objects.fetch_pods(OPERATORS)]
    return next((name for name in pods if name in holder), "")


def change_and_measure(tandem: Installation, fleets: Fleets, name: str, replicas: int) -> float:
    """Seconds from a change of the spec until its pods are there."""
    began = time.monotonic()
    tandem.objects.patch_spec(name, {"decode": {"replicas": replicas}})
    fleets.wait_pods(name, "decode", replicas)
    return time.monotonic() - began


def test_a_leader_that_is_killed_or_stopped_is_replaced_and_no_stream_notices(
    tandem: Installation, fleets: Fleets, router_url: str
) -> None:
    """A change made at the very moment of the death is carried out by the other replica."""
    fleets.apply(build_sim_fleet("outlives", decode={"replicas": 1}))
    fleets.wait_ready("outlives")
    with two_operators(tandem), steady_load(router_url, "outlives", CLIENTS, TOKENS) as ledger:
        tandem.objects.kill_pod(killed := find_leader(tandem))
        after_kill_s = change_and_measure(tandem, fleets, "outlives", 2)
        fleets.wait_ready("outlives")
        assert find_leader(tandem) not in ("", killed)
        scale_operators(tandem, 2)
        tandem.cluster.kubectl(
            "-n", tandem.objects.namespace, "delete", "pod", stopped := find_leader(tandem), "--wait=false"
        )
        after_stop_s = change_and_measure(tandem, fleets, "outlives", 3)
        fleets.wait_ready("outlives")
        assert find_leader(tandem) != stopped
    print(f"\nchange to pods: {after_kill_s:.1f} s after a kill, {after_stop_s:.1f} s after a clean stop; {ledger}")
    assert ledger.failures == []
    assert after_kill_s <= LEASE_S + APPLY_S
    assert after_stop_s <= APPLY_S


def test_a_fleet_that_is_deleted_under_load_ends_no_stream_without_a_word(
    tandem: Installation, fleets: Fleets, router_url: str
) -> None:
    """Streams that run are finished within the drain; who comes later is told that there is no such model."""
    fleets.apply(build_sim_fleet("departs"))
    fleets.wait_ready("departs")
    begun = threading.Semaphore(0)

    def stream(number: int) -> Answer:
        return ask(router_url, "departs", f"stream {number} " * 40, LONG_TOKENS, lambda text: begun.release())

    with ThreadPoolExecutor(STREAMS) as threads:
        streams = [threads.submit(stream, number) for number in range(STREAMS)]
        for _ in range(3 * STREAMS):  # every one of them may have begun; some have
            assert begun.acquire(timeout=30)
        tandem.objects.delete_fleet("departs")
        outcomes = [settle(one) for one in streams]
    print(f"\ndeleted under load: {outcomes}")
    assert outcomes == [LONG_TOKENS] * STREAMS
    fleets.wait_gone("departs")
    with pytest.raises(DemoError, match="404"):
        ask(router_url, "departs", "anybody?", 1)


def settle(stream: Future[Answer]) -> Any:
    """Tokens of a stream that ended well, the words of one that did not."""
    try:
        return stream.result().usage.get("completion_tokens")
    except DemoError as error:
        return str(error)
