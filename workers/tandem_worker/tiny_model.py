"""`synthetic://tiny-llama`: a random Llama made on the spot, for demos and tests that must not download anything.

    python -m tandem_worker.tiny_model DIRECTORY

Weights and tokenizer follow from constants alone, so that every worker that makes the model holds the identical one:
what a prefill worker computes is what a decode worker would have computed. It answers word salad, at full length:
the rows of the output matrix that belong to special or unprintable tokens are zero, so that greedy decoding never
stops by itself and never breaks a character in two.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SOURCE = "synthetic://tiny-llama"
SEED = 20_260_701
HIDDEN = 256
INTERMEDIATE = 512
LAYERS = 4
HEADS = 4
KV_HEADS = 2
HEAD_DIM = 64
MAX_POSITIONS = 4096
VOCABULARY = 1000
INIT_STD = 0.06  # wide enough that attention, and so the KV cache, decides the answer
OUTPUT_STD = 0.25  # logits of spread 4: sampling prefers likely tokens, as it does with a trained model

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SPECIAL_TOKENS = (BEGIN, END, PAD)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
CORPUS = Path(__file__).with_name("tiny_corpus.txt")


def ensure_tiny_model(directory: Path) -> Path:
    """Make the model in `directory` unless it is there already; the directory appears whole or not at all.

    Returns: `directory`.
    """
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        _write_model(draft)
        draft.chmod(0o755)
        _move_into_place(draft, directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return directory


def build_model_config() -> dict[str, Any]:
    """`config.json` in the form that Hugging Face transformers and vLLM read."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": MAX_POSITIONS,
        "vocab_size": VOCABULARY,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }


def build_weight_shapes() -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor, in the order in which they are drawn."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in _layer_shapes().items()}
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def _layer_shapes() -> dict[str, tuple[int, ...]]:
    return {
        "input_layernorm": (HIDDEN,),
        "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
        "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
        "post_attention_layernorm": (HIDDEN,),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
    }


def _write_model(directory: Path) -> None:
    from safetensors.torch import save_file

    vocabulary = _write_tokenizer(directory)
    weights = directory / "model.safetensors"
    save_file(_draw_weights(vocabulary), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors writes 0600; the model may be read by another user than its maker
    _write_json(directory / "config.json", build_model_config())
    _write_json(directory / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2})


def _write_tokenizer(directory: Path) -> dict[str, int]:
    """Train a byte-level BPE on the corpus that ships with this module. Returns token → id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS.read_text(encoding="utf-8")], trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BEGIN,
            "eos_token": END,
            "pad_token": PAD,
            "model_max_length": MAX_POSITIONS,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary


def _draw_weights(vocabulary: dict[str, int]) -> "dict[str, torch.Tensor]":
    import torch

    generator = torch.Generator(device="cpu").manual_seed(SEED)
    weights: dict[str, torch.Tensor] = {}
    for name, shape in build_weight_shapes().items():
        std = OUTPUT_STD if name.startswith("lm_head") else INIT_STD
        tensor = torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator) * std
        weights[name] = tensor.to(torch.bfloat16)
    weights["lm_head.weight"][[i for token, i in vocabulary.items() if not _is_printable(token)]] = 0
    return weights


def _is_printable(token: str) -> bool:
    """Whether a token is plain ASCII text. Byte-level BPE writes a space as Ġ and other bytes as letters ≥ U+0080."""
    return token not in SPECIAL_TOKENS and token.replace("Ġ", " ").isascii()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _move_into_place(draft: Path, directory: Path) -> None:
    try:
        os.rename(draft, directory)
    except OSError:
        if not directory.is_dir():  # else another process was quicker, with the same bytes
            raise


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tandem_worker.tiny_model DIRECTORY")
    print(ensure_tiny_model(Path(sys.argv[1])))
