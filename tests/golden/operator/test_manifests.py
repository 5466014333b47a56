"""Every manifest of every scenario, as reviewed. `TANDEM_UPDATE_GOLDEN=1 pytest tests/golden` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from unit.operator.fleets import make_fleet
from unit.operator.world import World

from tandem_api.v1alpha1 import InferenceDeploymentSpec
from tandem_operator.model import Apply, CreatePool

FOLDER = Path(__file__).parent
EXAMPLES = Path(__file__).resolve().parents[3] / "examples"

SCENARIOS: dict[str, dict[str, Any]] = {
    "disaggregated": {
        "model": {"name": "meta-llama/Llama-3.1-70B-Instruct", "servedName": "llama", "tokenSecret": {"name": "hub"}},
        "engine": {
            "image": "registry.example/vllm@sha256:0123",
            "dtype": "bfloat16",
            "prefixCaching": True,
            "kvCache": {"blockSize": 32, "dtype": "fp8", "memory": "20Gi"},
            "extraArgs": ["--seed=7"],
        },
        "prefill": {
            "replicas": 2,
            "parallelism": {"tensor": 4},
            "resources": {"cpu": "16", "memory": "128Gi", "sharedMemory": "16Gi"},
            "engineOverrides": {"batching": {"maxNumBatchedTokens": 16384}, "extraArgs": ["--max-logprobs=0"]},
        },
        "decode": {
            "replicas": 6,
            "parallelism": {"tensor": 4},
            "resources": {"gpuResource": "amd.com/gpu"},
            "podTemplate": {
                "labels": {"team": "search"},
                "annotations": {"note": "n"},
                "nodeSelector": {"gpu": "h200"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "priorityClassName": "serving",
                "imagePullSecrets": [{"name": "pull"}],
            },
        },
        "drain": {"timeoutSeconds": 300},
    },
    "aggregated": {
        "model": {"name": "local", "source": "pvc://models/llama/8b"},
        "decode": {"replicas": 1, "parallelism": {"tensor": 2, "pipeline": 2}},
    },
    "optimised": {
        "model": {
            "name": "org/model",
            "revision": "v2",
            "adapters": [{"name": "sql", "source": "pvc://adapters/sql"}, {"name": "chat", "source": "hf://org/chat"}],
            "cache": {"claimName": "weights"},
        },
        "engine": {
            "quantization": "awq_marlin",
            "speculative": {"method": "eagle3", "tokens": 3, "source": "s3://team-models/head"},
            "lora": {"maxRank": 32, "maxInBatch": 2},
        },
        "prefill": {
            "parallelism": {"tensor": 4},
            "engineOverrides": {"prefixCaching": True, "batching": {"chunkedPrefill": True}},
        },
        "decode": {
            "parallelism": {"tensor": 2},
            "engineOverrides": {"prefixCaching": False, "kvCache": {"memory": "40Gi"}},
            "podTemplate": {
                "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
                "affinity": {
                    "podAntiAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": [
                            {"labelSelector": {"matchLabels": {"noisy": "true"}}, "topologyKey": "rack"}
                        ]
                    }
                },
                "topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"}
                ],
                "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "two-gpus"}],
            },
        },
        "kvTransfer": {"locality": {"topologyKey": "topology.kubernetes.io/zone"}},
    },
    "multinode": {
        "model": {"name": "org/model", "source": "oci://registry.example/model:1#weights"},
        "decode": {"replicas": 2, "nodes": 2, "parallelism": {"tensor": 8, "pipeline": 2}},
    },
    "simulated": {
        "model": {"name": "tiny", "source": "synthetic://tiny-llama"},
        "engine": {"type": "sim"},
        "prefill": {"replicas": 1},
        "decode": {"replicas": 1},
    },
}


def render(spec: dict[str, Any]) -> str:
    """Everything that the birth of a fleet writes, in order."""
    world = World(make_fleet(InferenceDeploymentSpec.model_validate(spec)))
    manifests = [a.manifest for a in world.reconcile() if isinstance(a, Apply | CreatePool)]
    return yaml.safe_dump_all(manifests, sort_keys=False, width=120)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_children_of_a_fleet_are_as_reviewed(scenario: str) -> None:
    path = FOLDER / f"{scenario}.yaml"
    text = render(SCENARIOS[scenario])
    if os.environ.get("TANDEM_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_can_be_read_and_planned(path: Path) -> None:
    documents = [d for d in yaml.safe_load_all(path.read_text()) if d and d.get("kind") == "InferenceDeployment"]
    for document in documents:
        assert "Deployment" in render(document["spec"])
