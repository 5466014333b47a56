"""extraArgs: everything but what Tandem owns, judged as vLLM's parser reads it."""

from __future__ import annotations

import re

import pytest

from tandem_api.engine_flags import KV_RELEVANT, OWNED, cel_pattern, find_flag_problem


@pytest.mark.parametrize(
    ("argument", "fix"),
    [
        ("--port", "Tandem sets it itself"),
        ("--port=1", "Tandem sets it itself"),
        ("--kv-transfer-config.kv_role=kv_both", "Tandem sets it itself"),
        ("--kv_transfer_config", "Tandem sets it itself"),
        ("--kv-transf", "Tandem sets it itself"),
        ("--KV-transfer-config", "Tandem sets it itself"),
        ("--dtype=half", "set engine.dtype"),
        ("--dty", "set engine.dtype"),
        ("--no-enable-prefix-caching", "set engine.prefixCaching"),
        ("--no_enable_prefix", "set engine.prefixCaching"),
        ("--tensor-parallel-size 4", "set parallelism.tensor"),
        ("--speculative-config", "set engine.speculative"),
        ("--lora-modules", "set model.adapters"),
        ("--hf-token=secret", "set model.tokenSecret"),
        ("-tp", "use the long option"),
        ("-q=fp8", "use the long option"),
        ("-n2", "use the long option"),
        ("--", "it ends the options"),
    ],
)
def test_what_tandem_owns_is_refused_by_name_with_the_fix(argument: str, fix: str) -> None:
    problem = find_flag_problem(["--seed=7", argument])
    assert problem is not None
    assert fix in str(problem)
    assert "secret" not in str(problem)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seed", "7"],
        ["--trust-remote-code"],
        ["--max-logprobs", "-1"],
        ["-O3"],
        ["-cc.mode=3"],
        ["--tool-call-parser=hermes", "--enable-auto-tool-choice"],
        ["--hf-overrides", '{"rope_theta": 1}'],
        ["model"],
    ],
)
def test_what_has_no_field_may_be_set(arguments: list[str]) -> None:
    assert find_flag_problem(arguments) is None


@pytest.mark.parametrize("flag", KV_RELEVANT)
def test_what_kv_depends_on_is_for_both_roles_or_none(flag: str) -> None:
    assert find_flag_problem([f"--{flag}=x"]) is None
    problem = find_flag_problem([f"--{flag}=x"], of_one_role=True)
    assert problem is not None
    assert "move it to engine.extraArgs" in str(problem)


@pytest.mark.parametrize("flag", OWNED)
def test_admission_refuses_every_owned_flag_in_full(flag: str) -> None:
    for form in (f"--{flag}", f"--{flag}=1", f"--{flag.replace('-', '_')}", f"--no-{flag}", f"--{flag}.key"):
        assert re.search(cel_pattern(), form), form


@pytest.mark.parametrize(
    "argument", ["--seed=7", "-O3", "-1", "-0.5", "--model-impl=auto", "x", "--served", "-cc.mode=3"]
)
def test_admission_lets_through_what_it_cannot_judge(argument: str) -> None:
    assert not re.search(cel_pattern(), argument)
