"""The router's bench: what it reads from /proc, and what it says of its goals."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def reporting(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.router import report

    return report


def build_report(cpu_us: dict[str, list[float]]):
    from bench.router.measure import Reading, Report

    report = Report()
    for peer, values in cpu_us.items():
        report.readings += [Reading(peer, "request", value, 0, 0, 0, 0, 0, "") for value in values]
    return report


def test_a_goal_is_judged_by_medians(reporting):
    report = build_report({"tandem": [40, 900, 50], "sglang-router": [100, 110, 5]})
    goal = reporting.Goal("CPU µs, request 1 KB", "sglang-router", 0.5)
    assert reporting.verdict(goal, report).endswith("0.50, met")


def test_a_missed_goal_is_called_missed(reporting):
    report = build_report({"tandem": [90], "sglang-router": [100]})
    goal = reporting.Goal("CPU µs, request 1 KB", "sglang-router", 0.5)
    assert reporting.verdict(goal, report).endswith("0.90, MISSED")


def test_a_goal_without_its_peer_is_not_measured(reporting):
    report = build_report({"tandem": [90]})
    assert all(line.endswith("not measured") for line in reporting.verdicts(report).splitlines())


def test_the_table_shows_how_many_times_ours_a_peer_costs(reporting):
    table = reporting.table(build_report({"tandem": [40], "vllm-router": [100]}))
    assert "| tandem | 40.0 |" in table
    assert "| vllm-router | 100 (×2.50) |" in table


def test_what_failed_is_told(reporting):
    report = build_report({"tandem": [40]})
    report.missing["haproxy"] = "haproxy is not on this machine"
    assert "haproxy is not on this machine" in reporting.failures(report)


def test_cpu_time_of_a_whole_tree_is_counted(reporting, tmp_path):
    from bench.router.processes import LOAD_CORE, Process

    spin = "import time\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\ntime.sleep(30)\n"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}])"
    process = Process.start([sys.executable, "-c", parent], LOAD_CORE, tmp_path / "log", is_read=True)
    try:
        assert process.read_line() == "done\n"
        assert process.cpu_s() > 0.5
    finally:
        process.stop()
    assert not process.is_running
