"""Writes a random LoRA adapter for the tiny model, in the form that PEFT saves. Run in the interpreter that has torch.

python tiny_adapter.py DIRECTORY
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tandem_worker.tiny_model import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS

RANK = 8
OUTPUTS = {"q_proj": HEADS * HEAD_DIM, "v_proj": KV_HEADS * HEAD_DIM}  # v_proj, so that KV itself is another
STD = 0.1

directory = Path(sys.argv[1])
directory.mkdir(parents=True)
generator = torch.Generator().manual_seed(7)
weights = {}
for layer in range(LAYERS):
    for name, outputs in OUTPUTS.items():
        prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
        weights[f"{prefix}.lora_A.weight"] = torch.randn(RANK, HIDDEN, generator=generator) * STD
        weights[f"{prefix}.lora_B.weight"] = torch.randn(outputs, RANK, generator=generator) * STD
save_file(weights, directory / "adapter_model.safetensors")
config = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "tiny",
    "r": RANK,
    "lora_alpha": 2 * RANK,
    "lora_dropout": 0.0,
    "bias": "none",
    "target_modules": list(OUTPUTS),
}
(directory / "adapter_config.json").write_text(json.dumps(config))
