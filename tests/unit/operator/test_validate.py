"""What admission cannot know to be wrong: field and fix."""

from __future__ import annotations

from typing import Any

import pytest
from unit.operator.fleets import make_spec

from tandem_operator.validate import find_problem

TINY = {"name": "tiny", "source": "synthetic://tiny-llama"}
WHOLE = {"batching": {"chunkedPrefill": False, "maxNumBatchedTokens": 1024}}


@pytest.mark.parametrize(
    ("spec", "field", "fix"),
    [
        ({"decode": {"resources": {"gpu": 3}}}, "spec.decode.resources.gpu", "set 1"),
        ({"prefill": None, "decode": {"nodes": 3, "parallelism": {"tensor": 4}}}, "spec.decode.nodes", "a divisor"),
        (
            {"prefill": None, "decode": {"nodes": 2, "parallelism": {"data": 2}}},
            "spec.decode.parallelism.data",
            "scale replicas instead",
        ),
        ({"engine": {"extraArgs": ["--max-model=1"]}}, "spec.engine.extraArgs", "set engine.maxModelLen"),
        (
            {"decode": {"engineOverrides": {"extraArgs": ["--hf-overrides={}"]}}},
            "spec.decode.engineOverrides.extraArgs",
            "move it to engine.extraArgs",
        ),
        (
            {"engine": {"speculative": {"method": "draft_model", "tokens": 2, "source": TINY["source"]}}},
            "spec.engine.speculative.source",
            "name the model's draft",
        ),
        (
            {
                "decode": {"parallelism": {"tensor": 4}},
                "engine": {"speculative": {"method": "eagle", "tokens": 2, "source": "hf://a/b", "draftTensor": 2}},
            },
            "spec.engine.speculative.draftTensor",
            "set one of these",
        ),
        ({"engine": {**WHOLE, "maxModelLen": 2048}}, "spec.engine.batching.maxNumBatchedTokens", "raise it"),
        (
            {"engine": {"maxModelLen": 2048}, "prefill": {"engineOverrides": WHOLE}},
            "spec.prefill.engineOverrides.batching.maxNumBatchedTokens",
            "switch chunkedPrefill on",
        ),
        ({"decode": {"resources": {"sharedMemory": "1Ki"}}}, "spec.decode.resources.sharedMemory", "at least 64Mi"),
        (
            {"decode": {"podTemplate": {"nodeSelector": {"a b": "c"}}}},
            "spec.decode.podTemplate.nodeSelector",
            "correct",
        ),
        ({"engine": {"type": "sim", "image": "x"}}, "spec.engine.image", "set engine.workerImage"),
    ],
)
def test_a_problem_names_its_field_and_the_fix(spec: dict[str, Any], field: str, fix: str) -> None:
    problem = find_problem(make_spec(**spec))
    assert problem is not None
    assert problem.field == field
    assert fix in problem.text


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {
            "engine": {**WHOLE, "maxModelLen": 2048},
            "prefill": None,
            "decode": {"engineOverrides": {"maxModelLen": 512}},
        },
        {"model": TINY, "engine": {"speculative": {"method": "draft_model", "tokens": 2, "source": TINY["source"]}}},
        {"prefill": None, "decode": {"nodes": 2, "parallelism": {"tensor": 8, "pipeline": 2}}},
        {"decode": {"podTemplate": {"resourceClaims": [{"name": "gpu", "resourceClaimName": "four"}]}}},
    ],
)
def test_what_can_work_has_no_problem(spec: dict[str, Any]) -> None:
    assert find_problem(make_spec(**spec)) is None
