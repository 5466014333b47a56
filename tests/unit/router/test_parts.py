"""Small parts: settings, keys, snapshots, the static file, the last good state, placement."""

import asyncio
import json

import pytest

from tandem_api.worker import KVCounters, WorkerState
from tandem_core.keys import derive_engine_token, derive_internal_token, encode_key
from tandem_router.admission import AdmissionQueue, Patience, QueueLimits, Wish
from tandem_router.claims import Claim
from tandem_router.discovery.last_good import read_last_good, write_last_good
from tandem_router.discovery.objects import build_snapshot, parse_fleet, parse_pod
from tandem_router.discovery.static_file import StaticFileError, load_static
from tandem_router.errors import ModelNotFoundError, OverloadedError, UnavailableError
from tandem_router.fleets import PREFILL_WINDOW_TOKENS, Capacity, Catalog, Worker
from tandem_router.internal import build_report
from tandem_router.keys import KeyFileError, KeyRing
from tandem_router.settings import parse_settings
from tandem_router.snapshot import FleetSpec, Snapshot, WorkerSpec

KEY = bytes(range(32))


def worker(name="w", **changes):
    base = {"role": "mixed", "address": "127.0.0.1", "http_port": 1, "admin_port": None, "kv_revision": "a"}
    return WorkerSpec(name=name, uid=f"uid-{name}", **(base | changes))


def fleet(name="f", **changes):
    base = {"namespace": "ns", "uid": f"uid-{name}", "served_name": "m"}
    return FleetSpec(name=name, **(base | changes))


def state(instance="i1", **kv):
    return WorkerState(
        fleet="ns/f", role="mixed", kv_revision="a", instance=instance, ready=True, draining=False, kv=KVCounters(**kv)
    )


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_come_from_the_pods_environment(tmp_path):
    (tmp_path / "namespace").write_text("mine\n")
    env = {
        "POD_IP": "fd00::7",
        "POD_NAME": "r-0",
        "KUBERNETES_SERVICE_HOST": "fd00::1",
        "KUBERNETES_SERVICE_PORT": "6443",
        "TANDEM_SERVICEACCOUNT_DIR": str(tmp_path),
        "TANDEM_ROUTER_KEYS_DIR": "/keys",
    }
    settings = parse_settings([], env)
    assert (settings.host, settings.replica, settings.namespaces) == ("fd00::7", "r-0", ("mine",))
    assert (settings.api_server, str(settings.keys_dir)) == ("https://[fd00::1]:6443", "/keys")
    assert (settings.port, settings.internal_port) == (8080, 8443)


def test_namespaces_are_a_list_or_all():
    assert parse_settings(["--namespaces", "a, b"], {}).namespaces == ("a", "b")
    assert parse_settings(["--namespaces", "all"], {}).namespaces is None


def test_half_of_a_tls_pair_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse_settings(["--internal-tls-cert", "x"], {})
    assert "give both or neither" in capsys.readouterr().err


# --- keys -------------------------------------------------------------------------------------------------------------


def test_tokens_are_derived_from_the_key_and_follow_it(tmp_path):
    file = tmp_path / "router.key"
    file.write_text(encode_key(KEY))
    ring = KeyRing(tmp_path, required=True)
    assert ring.engine_tokens(fleet()) == (derive_engine_token(KEY, "uid-f"),)
    assert ring.is_internal_token(derive_internal_token(KEY))
    assert not ring.is_internal_token("nonsense")
    new = KEY[::-1]
    (tmp_path / "draft").write_text(encode_key(new))
    (tmp_path / "draft").replace(file)
    ring.refresh()
    assert ring.engine_tokens(fleet()) == (derive_engine_token(new, "uid-f"),)
    file.unlink()
    ring.refresh()
    assert ring.engine_tokens(fleet()) == (derive_engine_token(new, "uid-f"),)


def test_a_previous_key_is_accepted_and_shown_second_until_it_is_taken_away(tmp_path):
    old = KEY[::-1]
    (tmp_path / "router.key").write_text(encode_key(KEY))
    (tmp_path / "router.previous").write_text(encode_key(old))
    ring = KeyRing(tmp_path, required=True)
    assert ring.engine_tokens(fleet()) == (derive_engine_token(KEY, "uid-f"), derive_engine_token(old, "uid-f"))
    assert ring.is_internal_token(derive_internal_token(old))
    assert ring.is_internal_token(derive_internal_token(KEY))
    (tmp_path / "router.previous").unlink()
    ring.refresh()
    assert ring.engine_tokens(fleet()) == (derive_engine_token(KEY, "uid-f"),)
    assert not ring.is_internal_token(derive_internal_token(old))


def test_a_missing_or_broken_key_is_named(tmp_path):
    with pytest.raises(KeyFileError, match=r"router\.key is missing: mount"):
        KeyRing(tmp_path, required=True)
    (tmp_path / "router.key").write_text("not a key")
    with pytest.raises(KeyFileError, match="holds no router key"):
        KeyRing(tmp_path, required=False)


def test_without_a_key_the_internal_listener_is_closed(tmp_path):
    ring = KeyRing(tmp_path, required=False)
    assert not ring.is_internal_token("")
    assert ring.engine_tokens(fleet()) == (None,)


# --- snapshot and disk ------------------------------------------------------------------------------------------------


def test_the_last_good_state_survives_the_disk(tmp_path):
    snapshot = Snapshot((fleet(weights=(("a", 90), ("b", 10)), workers=(worker(admin_port=8001),)),))
    write_last_good(tmp_path / "new", snapshot)
    assert read_last_good(tmp_path / "new") == snapshot
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["last-good.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"fleets":[{"workers":[],"weights":[],"odd":1}]}'])
def test_a_last_good_state_that_cannot_be_read_is_no_state(tmp_path, text):
    (tmp_path / "last-good.json").write_text(text)
    assert read_last_good(tmp_path) is None


def test_a_static_file_names_the_field_that_is_wrong(tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text("fleets: [{name: a, servedName: m, workers: [{name: w, role: prefil, address: x}]}]")
    with pytest.raises(StaticFileError, match=r"fleets\.0\.workers\.0\.role"):
        load_static(file)
    file.write_text("fleets: [")
    with pytest.raises(StaticFileError, match="cannot be read"):
        load_static(file)
    with pytest.raises(StaticFileError, match="cannot be read"):
        load_static(tmp_path / "none")


# --- Kubernetes objects -----------------------------------------------------------------------------------------------


def pod(**changes):
    item = {
        "metadata": {
            "name": "p",
            "namespace": "ns",
            "uid": "u",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"tandem.dev/fleet": "f", "tandem.dev/role": "prefill", "tandem.dev/kv-revision": "a"},
            "annotations": {"tandem.dev/http-port": "9000"},
        },
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    for path, value in changes.items():
        part, _, key = path.partition("__")
        item[part][key] = value
    return item


def test_a_pod_is_a_worker():
    record = parse_pod(pod())
    assert (record.namespace, record.fleet) == ("ns", "f")
    assert record.worker == WorkerSpec(
        "p", "u", "prefill", "10.0.0.1", 9000, 8001, "a", True, False, "2026-01-01T00:00:00Z"
    )


def test_readiness_and_termination_are_seen():
    assert not parse_pod(pod(status__conditions=[{"type": "Ready", "status": "False"}])).worker.ready
    assert not parse_pod(pod(status__conditions=[])).worker.ready
    assert parse_pod(pod(metadata__deletionTimestamp="2026-01-01T00:00:00Z")).worker.terminating


@pytest.mark.parametrize(
    "changes", [{"status__podIP": ""}, {"metadata__labels": {}}, {"metadata__labels": {"tandem.dev/role": "x"}}]
)
def test_other_pods_are_no_workers(changes):
    assert parse_pod(pod(**changes)) is None


def deployment(**spec):
    base = {"model": {"name": "org/m", "servedName": "m"}, "decode": {}}
    meta = {"name": "f", "namespace": "ns", "uid": "u", "generation": 3, "creationTimestamp": "t"}
    return {"apiVersion": "tandem.dev/v1alpha1", "kind": "InferenceDeployment", "metadata": meta, "spec": base | spec}


def test_an_inference_deployment_is_a_fleet():
    item = deployment(
        prefill={},
        kvTransfer={"onPrefillFailure": "Local"},
        routing={"queueTimeoutSeconds": 5, "requestTimeoutSeconds": 60},
    )
    item["status"] = {"revisions": [{"kvRevision": "a", "trafficPercent": 90, "phase": "Stable"}]}
    spec = parse_fleet(item)
    assert (spec.served_name, spec.generation, spec.has_prefill) == ("m", 3, True)
    assert (spec.on_prefill_failure, spec.queue_timeout_s, spec.request_timeout_s) == ("Local", 5.0, 60.0)
    assert spec.weights == (("a", 90),)
    assert not parse_fleet(deployment()).has_prefill


def test_a_fleet_brings_its_isolated_factor_and_its_slower_roles_measured_start_up():
    objectives = {"ttft": {"percentile": "p95", "seconds": 2, "isolatedFactor": 3}}
    item = deployment(objectives=objectives)
    measured = {"templateRevision": "aaaaaaaa", "slowestSeconds": 99, "workers": 2}
    item["status"] = {
        "startup": [{"role": "prefill", "seconds": 40, **measured}, {"role": "decode", "seconds": 70, **measured}]
    }
    spec = parse_fleet(item)
    assert (spec.isolated_factor, spec.startup_s) == (3.0, 70.0)
    assert (parse_fleet(deployment()).isolated_factor, parse_fleet(deployment()).startup_s) == (1.0, None)


def test_an_object_of_another_schema_is_left_out_and_logged(caplog):
    assert parse_fleet(deployment(decode="nonsense")) is None
    assert "InferenceDeployment ns/f not understood" in caplog.text


def test_pods_join_the_fleet_of_their_namespace_only():
    one, other = parse_fleet(deployment()), parse_pod(pod(metadata__namespace="other"))
    assert build_snapshot([one], [parse_pod(pod()), other]).fleets[0].workers == (parse_pod(pod()).worker,)


# --- catalog ----------------------------------------------------------------------------------------------------------


async def test_a_worker_that_stays_keeps_what_is_known_of_it():
    catalog = Catalog(Capacity())
    catalog.apply(Snapshot((fleet(workers=(worker("a"), worker("b"))),)))
    kept = catalog.fleets["uid-f"].workers["uid-a"]
    kept.claimed = 3
    catalog.apply(Snapshot((fleet(workers=(worker("a", terminating=True), worker("c"))),)))
    workers = catalog.fleets["uid-f"].workers
    assert set(workers) == {"uid-a", "uid-c"}
    assert workers["uid-a"] is kept
    assert not kept.is_usable(0.0)
    assert kept.bit != workers["uid-c"].bit


async def test_the_oldest_fleet_holds_a_name_and_the_namespaced_name_always_works():
    catalog = Catalog(Capacity())
    old, new = fleet("old", created="2026-01-01"), fleet("new", created="2026-01-02", namespace="ns2")
    catalog.apply(Snapshot((new, old)))
    assert catalog.resolve("m").spec is old
    assert catalog.resolve("ns2/m").spec is new
    assert not catalog.holds_name(catalog.resolve("ns2/m"))


def test_before_discovery_has_finished_a_model_is_not_called_unknown():
    catalog = Catalog(Capacity())
    with pytest.raises(UnavailableError):
        catalog.resolve("m")
    catalog.apply(Snapshot())
    with pytest.raises(ModelNotFoundError):
        catalog.resolve("m")


async def test_kv_totals_never_fall_when_a_worker_leaves_or_restarts():
    catalog = Catalog(Capacity())
    catalog.apply(Snapshot((fleet(workers=(worker("a"), worker("b"))),)))
    one = catalog.fleets["uid-f"]
    one.take_state(one.workers["uid-a"], state(transfers=5), 0.0)
    one.take_state(one.workers["uid-b"], state(transfers=7), 0.0)
    assert one.take_state(one.workers["uid-a"], state("i2", transfers=1), 1.0)
    assert one.kv_totals().transfers == 13
    catalog.apply(Snapshot((fleet(workers=(worker("a"),)),)))
    assert one.kv_totals().transfers == 13
    assert build_report(catalog, "r", 0.0).fleets[0].kv.transfers == 13


async def test_a_claim_is_given_back_once():
    catalog = Catalog(Capacity())
    catalog.apply(Snapshot((fleet(workers=(worker(),)),)))
    one = catalog.fleets["uid-f"].workers["uid-w"]
    claim = Claim(one, 10, lambda: None)
    assert (one.claimed, one.claimed_tokens) == (1, 10)
    claim.release()
    claim.release()
    assert (one.claimed, one.claimed_tokens) == (0, 0)


# --- admission --------------------------------------------------------------------------------------------------------


class Ticket:
    def __init__(self):
        self.released = 0

    def release(self):
        self.released += 1


def entry(queue, place, latest_start_s, *, timeout_s=1.0, can_serve=lambda: True, **wish):
    now_s = asyncio.get_running_loop().time()
    wished = Wish(**({"tokens": 100, "latest_start_s": now_s + latest_start_s, "target_s": 1.0} | wish))
    return asyncio.create_task(queue.admit(place, wished, Patience(timeout_s, can_serve)))


async def test_the_earliest_deadline_is_placed_first():
    queue, free, order = AdmissionQueue(QueueLimits(10)), [], []

    def placer(name):
        def place():
            if not free:
                return None
            order.append(name)
            return free.pop()

        return place

    tasks = [
        entry(queue, placer(name), deadline_s) for name, deadline_s in (("late", 30.0), ("soon", 10.0), ("mid", 20.0))
    ]
    await asyncio.sleep(0)
    free.extend((Ticket(), Ticket()))
    queue.wake()
    free.append(Ticket())
    queue.wake()
    await asyncio.gather(*tasks)
    assert order == ["soon", "mid", "late"]


async def test_a_retry_that_waits_for_another_worker_does_not_hold_up_the_rest():
    queue = AdmissionQueue(QueueLimits(10))
    blocked = entry(queue, lambda: None, 1.0, is_retry=True)
    await asyncio.sleep(0)
    ticket = Ticket()
    assert await entry(queue, lambda: ticket, 2.0) is ticket
    blocked.cancel()


async def test_a_placement_made_for_a_request_that_is_being_cancelled_is_given_back():
    queue, ticket, free = AdmissionQueue(QueueLimits(10)), Ticket(), []
    waiting = entry(queue, lambda: free.pop() if free else None, 1.0)
    await asyncio.sleep(0)
    free.append(ticket)
    queue.wake()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (ticket.released, len(queue)) == (1, 0)


async def test_waiting_too_long_says_whether_there_are_workers_at_all():
    queue = AdmissionQueue(QueueLimits(10))
    with pytest.raises(OverloadedError):
        await entry(queue, lambda: None, 1.0, timeout_s=0.01)
    with pytest.raises(UnavailableError):
        await entry(queue, lambda: None, 1.0, timeout_s=0.01, can_serve=lambda: False)
    assert len(queue) == 0


async def test_retry_after_follows_the_drain_rate():
    queue = AdmissionQueue(QueueLimits(100))
    now_s = asyncio.get_running_loop().time()
    assert queue.retry_after_s() == 1
    tasks = [entry(queue, lambda: None, 1.0) for _ in range(20)]
    await asyncio.sleep(0)
    for _ in range(10):
        queue.count_finished(now_s - 5.0)
    assert queue.retry_after_s() in (10, 11)  # 20 waiting, 10 ended in 5 s
    for task in tasks:
        task.cancel()


def test_reports_are_json(tmp_path):
    catalog = Catalog(Capacity())
    assert json.loads(build_report(catalog, "r", 0.0).model_dump_json())["synced"] is False


async def test_a_higher_class_takes_the_place_of_a_lower_one_in_a_full_queue():
    queue = AdmissionQueue(QueueLimits(1))
    low = entry(queue, lambda: None, 1.0, tenant="a", priority=-1)
    await asyncio.sleep(0)
    high = entry(queue, lambda: None, 1.0, tenant="b")
    with pytest.raises(OverloadedError, match="took its place"):
        await low
    refused = entry(queue, lambda: None, 1.0, tenant="c", priority=-1)
    with pytest.raises(OverloadedError, match="Too many"):
        await refused
    high.cancel()


async def test_the_queue_is_bounded_in_tokens_but_one_prompt_may_always_wait():
    queue = AdmissionQueue(QueueLimits(10, 1000))
    tickets = [Ticket()]
    huge = entry(queue, lambda: tickets.pop() if tickets[1:] else None, 1.0, tokens=5000)
    await asyncio.sleep(0)
    assert len(queue) == 1
    with pytest.raises(OverloadedError):
        await entry(queue, lambda: None, 1.0, tokens=10)
    huge.cancel()


def test_a_prefill_worker_gets_a_step_ahead_and_no_more():
    one = Worker(worker("p", role="prefill"), 1, 256)
    claims = []
    while one.has_slot:
        claims.append(Claim(one, 4000, lambda: None))
    assert PREFILL_WINDOW_TOKENS <= one.claimed_tokens < PREFILL_WINDOW_TOKENS + 4000
    decode = Worker(worker("d", role="decode"), 2, 256)
    Claim(decode, 1_000_000, lambda: None)
    assert decode.has_slot


def test_slots_that_peers_own_are_not_ours():
    one = Worker(worker(), 1, 8)
    one.allotted = 2
    Claim(one, 1, lambda: None)
    one.peer_running = 5
    assert one.has_slot
    assert one.running == 6
    Claim(one, 1, lambda: None)
    assert not one.has_slot


async def test_those_behind_one_that_waits_for_its_worker_may_pass():
    queue, order = AdmissionQueue(QueueLimits(10)), []

    def placer(name, *, can_start):
        return lambda: order.append(name) or Ticket() if can_start else None

    first = entry(queue, placer("picky", can_start=False), 1.0, blocked_on=lambda: "affinity")
    await asyncio.sleep(0)
    second = entry(queue, placer("second", can_start=True), 2.0)
    await second
    assert order == ["second"]
    stuck = entry(queue, placer("third", can_start=False), 3.0, blocked_on=lambda: "decode")
    await asyncio.sleep(0)
    behind = entry(queue, placer("fourth", can_start=True), 4.0)
    await asyncio.sleep(0.01)
    assert not behind.done(), "nobody passes one for whom there is no room at all"
    for task in (first, stuck, behind):
        task.cancel()
