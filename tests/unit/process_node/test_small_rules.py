"""Back-off, addresses, deadlines, probes' streaks, tokens' renewal, settings."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster.process_node.addresses import AddressError, AddressPool
from cluster.process_node.backoff import Backoff, should_restart
from cluster.process_node.deadline import Deadline
from cluster.process_node.kubeconfig import KubeconfigError, load_credentials
from cluster.process_node.probes import Streak, parse_schedule
from cluster.process_node.settings import SettingsError, parse_backoff_s, parse_capacity, parse_settings
from cluster.process_node.tokens import renewal_time_s


def test_the_first_restart_is_immediate_and_later_ones_wait_ever_longer_up_to_five_minutes() -> None:
    backoff, delays = Backoff(), []
    for _ in range(8):
        delays.append(backoff.delay_s)
        backoff = backoff.after(ran_for_s=1)
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]


def test_a_long_run_begins_the_row_anew() -> None:
    assert Backoff(delay_s=300).after(ran_for_s=600).delay_s == 0
    assert Backoff(delay_s=300).after(ran_for_s=599).delay_s == 300


@pytest.mark.parametrize(
    ("policy", "exit_code", "want"),
    [("Always", 0, True), ("Always", 1, True), ("OnFailure", 0, False), ("OnFailure", 1, True), ("Never", 1, False)],
)
def test_restart_policies(policy: str, exit_code: int, want: bool) -> None:
    assert should_restart(policy, exit_code) is want


def test_addresses_are_given_in_turn_so_that_a_released_one_rests() -> None:
    pool = AddressPool("127.9.0.0/29")
    first = pool.take()
    pool.release(first)
    assert (first, pool.take()) == ("127.9.0.1", "127.9.0.2")


def test_a_known_pod_takes_its_address_back_where_it_is_free() -> None:
    pool = AddressPool("127.9.0.0/29")
    assert pool.take("127.9.0.5") == "127.9.0.5"
    assert pool.take("127.9.0.5") == "127.9.0.6"
    assert pool.take("10.0.0.1") == "127.9.0.1"


def test_a_full_range_says_so() -> None:
    pool = AddressPool("127.9.0.0/30")
    assert {pool.take(), pool.take()} == {"127.9.0.1", "127.9.0.2"}
    with pytest.raises(AddressError, match="all 2 addresses"):
        pool.take()


@pytest.mark.parametrize("cidr", ["10.0.0.0/24", "127.0.0.0/31", "127.0.0.1/24", "x", "0.0.0.0/0"])
def test_a_range_that_cannot_serve_pods_is_refused(cidr: str) -> None:
    with pytest.raises(AddressError, match="pod range"):
        AddressPool(cidr)


async def test_a_deadline_that_moves_nearer_is_heard_by_those_who_wait() -> None:
    deadline = Deadline()
    waiting = asyncio.create_task(deadline.passed())
    deadline.shorten_to(60)
    await asyncio.sleep(0)
    assert not waiting.done()
    deadline.shorten_to(0.01)
    deadline.shorten_to(60)
    await asyncio.wait_for(waiting, 1)


async def test_a_deadline_cuts_work_that_takes_longer_and_only_that() -> None:
    deadline = Deadline()
    assert not await deadline.cuts(asyncio.sleep(0))
    deadline.shorten_to(0.01)
    assert await deadline.cuts(asyncio.sleep(60))
    deadline.leave_at_least(60)
    assert not await deadline.cuts(asyncio.sleep(0))


def test_a_verdict_needs_as_many_equal_results_in_a_row_as_its_threshold() -> None:
    schedule = parse_schedule({"successThreshold": 2, "failureThreshold": 3})
    streak, verdicts = Streak(), []
    for ok in (True, True, False, False, True, False, False, False):
        streak = streak.after(ok)
        verdicts.append(streak.verdict(schedule))
    assert verdicts == [None, True, None, None, None, None, None, False]


def test_probes_have_kubernetes_defaults() -> None:
    schedule = parse_schedule({})
    assert (schedule.initial_delay_s, schedule.period_s, schedule.timeout_s) == (0, 10, 1)
    assert (schedule.success_threshold, schedule.failure_threshold) == (1, 3)


def test_tokens_are_renewed_at_80_percent_of_their_life_and_daily() -> None:
    assert renewal_time_s(100, 700) == 580
    assert renewal_time_s(0, 7 * 86_400) == 86_400


def test_capacity_is_read_and_pods_have_a_default() -> None:
    assert parse_capacity("nvidia.com/gpu=8,cpu=16") == {"pods": "110", "nvidia.com/gpu": "8", "cpu": "16"}


@pytest.mark.parametrize("text", ["cpu", "cpu=", "=1", "cpu=lots", "cpu=1,,memory=1"])
def test_a_wrong_capacity_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--capacity"):
        parse_capacity(text)


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf"])
def test_a_wrong_back_off_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="TANDEM_NODE_BACKOFF_S"):
        parse_backoff_s({"TANDEM_NODE_BACKOFF_S": text})


KUBECONFIG = """
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "https://127.0.0.1:6443", certificate-authority: ca.pem}}]
users: [{name: u, user: {token: t0ken}}]
"""


def arguments(folder: Path, **changes: str) -> list[str]:
    (folder / "k").write_text(KUBECONFIG)
    (folder / "images.json").write_text("{}")
    for name in ("ca.pem", "cert", "key"):
        (folder / name).write_text("PEM")
    options = {
        "node-name": "n1",
        "kubeconfig": str(folder / "k"),
        "ca": str(folder / "ca.pem"),
        "cert": str(folder / "cert"),
        "key": str(folder / "key"),
        "root": str(folder / "root"),
        "image-table": str(folder / "images.json"),
        "pod-cidr": "127.9.0.0/24",
        "capacity": "cpu=1",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return [f"--{name}={value}" for name, value in options.items()]


def test_settings_are_read_from_the_command_line_and_the_kubeconfig(tmp_path: Path) -> None:
    settings = parse_settings(arguments(tmp_path), {"LANG": "C", "HOME": "/root"})
    assert (settings.credentials.host, settings.credentials.port) == ("127.0.0.1", 6443)
    assert settings.credentials.ca_pem == "PEM"
    assert settings.credentials.build_headers() == {"Authorization": "Bearer t0ken"}
    assert settings.inherited_env == {"LANG": "C"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"node_name": "N_1"}, "--node-name 'N_1'"),
        ({"cert": "/nonexistent"}, "--cert /nonexistent"),
        ({"pod_cidr": "10.0.0.0/24"}, "pod range"),
        ({"image_table": "/nonexistent"}, "image table /nonexistent"),
        ({"kubeconfig": "/nonexistent"}, "kubeconfig /nonexistent"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings(arguments(tmp_path, **changes), {})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("current-context: c", "current-context: d", "no entry 'd' in contexts"),
        ("https://", "http://", "must be an https URL"),
        ("certificate-authority:", "certificate-authority-data:", "certificate-authority"),
    ],
)
def test_a_wrong_kubeconfig_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "k").write_text(KUBECONFIG.replace(old, new))
    with pytest.raises(KubeconfigError, match=message):
        load_credentials(tmp_path / "k")
