"""The command line: output, reports, and every wrong input told with its fix."""

import json

import pytest

from tandem_cli.app import main

from .worlds import poisson, write_fleet


@pytest.fixture
def trace(tmp_path):
    made = poisson(6, 400)
    rows = zip(made.arrival_s, made.input_tokens, made.output_tokens, strict=True)
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "".join(f"{a:.4f},{i},{o}\n" for a, i, o in rows))
    return path


def arguments(trace, folder, *more, policy="tandem", **spec):
    fleet = write_fleet(folder, **spec)
    fixed = ["simulate", "--trace", str(trace), "--fleet", str(fleet), "--json", str(folder / "out.json")]
    return [*fixed, "--policy", policy, *more]


def test_the_json_holds_what_the_contract_promises(trace, tmp_path):
    """Scores, sizes over time, explained decisions."""
    assert main(arguments(trace, tmp_path, "--quiet", "--gpu-price", "2.5", "--seed", "3")) == 0
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["policy"] == "tandem"
    assert out["requests"] == 2400
    assert 0.9 < out["attainment"] <= 1.0
    assert out["ttft_s"]["p50"] < out["ttft_s"]["p95"] < out["ttft_s"]["p99"]
    assert 0 < out["tpot_s"]["p99"] < 0.05
    assert out["cost"] == pytest.approx(2.5 * out["gpu_hours"])
    assert out["starts"] >= 0
    assert {"prefill_ready", "decode_asked"} <= out["sizes"][0].keys()
    assert out["decisions"][0]["prefill"]["bound"]


@pytest.mark.parametrize(("suffix", "start"), [("html", b"<!doctype html>"), ("png", b"\x89PNG")])
def test_a_report_is_written(trace, tmp_path, suffix, start):
    """Self-contained."""
    report = tmp_path / f"report.{suffix}"
    assert main(arguments(trace, tmp_path, "--quiet", "--report", str(report))) == 0
    assert report.read_bytes().startswith(start)


def test_the_oracle_needs_no_more_than_what_it_is_measured_against(trace, tmp_path):
    """It knows the future."""
    hours = {}
    for policy in ("oracle", "hpa:0.5"):
        assert main(arguments(trace, tmp_path, "--quiet", "--startup-s", "60", policy=policy)) == 0
        out = json.loads((tmp_path / "out.json").read_text())
        hours[policy] = out["gpu_hours"]
        assert out["attainment"] >= 0.99
    assert hours["oracle"] <= hours["hpa:0.5"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--speedup", "0"], "--speedup 0.0: give a number above zero"),
        (["--startup-s", "-1"], "--startup-s -1.0"),
        (["--fail-starts", "1"], "--fail-starts 1.0"),
        (["--kill", "router@5"], "--kill router@5: give ROLE@SECONDS"),
        (["--blind", "60"], "--blind 60: give FROM-TO"),
        (["--report", "x.pdf"], ".html or .png"),
        (["--json", "/nowhere/out.json"], "its folder does not exist"),
        (["--profile", "gpt"], "use one of 70b-a100-tp4"),
        (["--policy", "magic"], "--policy magic: unknown; use one of tandem"),
        (["--policy", "hpa:x"], "'x' is no number"),
        (["--policy", "hpa:0"], "above zero"),
        (["--policy", "hpa"], "wrong number of parameters"),
        (["--policy", "static:0,2"], "as in static:4,2"),
        (["--duration-s", "0"], "--duration-s above zero"),
        (["--from-s", "9999"], "no request between"),
    ],
)
def test_wrong_flags_end_with_one_sentence(trace, tmp_path, capsys, more, message):
    """Exit code 2, no traceback."""
    assert main(arguments(trace, tmp_path, "--quiet", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"objectives": None}, "spec.objectives"),
        ({"prefill": None}, "add spec.prefill"),
        ({"decode": {"min": 5, "max": 2}}, "spec.decode: min 5 and max 2"),
        ({"engine": {"performanceProfile": "9b-x"}}, "no performance profile is named '9b-x'"),
        ({"engine": {}, "model": {"name": "acme/secret"}}, "tells no size"),
        ({"autoscaling": {"gpuBudget": 1}}, "gpuBudget"),
    ],
)
def test_a_wrong_fleet_is_told_by_field(trace, tmp_path, capsys, spec, message):
    """Field and fix."""
    assert main(arguments(trace, tmp_path, "--quiet", **spec)) == 2
    assert message in capsys.readouterr().err


def test_a_file_without_a_fleet_is_told(trace, tmp_path, capsys):
    """A Deployment is not one."""
    other = tmp_path / "other.yaml"
    other.write_text("kind: Deployment\n")
    flags = ["--json", str(tmp_path / "o.json"), "--policy", "tandem", "--quiet"]
    assert main(["simulate", "--trace", str(trace), "--fleet", str(other), *flags]) == 2
    assert "no object of kind InferenceDeployment" in capsys.readouterr().err
