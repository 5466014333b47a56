"""The tiny model: its plan here, its bytes in the vllm-marked tests."""

from pathlib import Path

from tandem_worker.tiny_model import CORPUS, build_model_config, build_weight_shapes, ensure_tiny_model


def test_shapes_are_those_of_the_configuration() -> None:
    config, shapes = build_model_config(), build_weight_shapes()
    assert shapes["model.embed_tokens.weight"] == (config["vocab_size"], config["hidden_size"])
    heads = config["num_attention_heads"] * config["head_dim"]
    kv_heads = config["num_key_value_heads"] * config["head_dim"]
    for layer in range(config["num_hidden_layers"]):
        assert shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] == (heads, config["hidden_size"])
        assert shapes[f"model.layers.{layer}.self_attn.k_proj.weight"] == (kv_heads, config["hidden_size"])
    assert len(shapes) == 3 + 9 * config["num_hidden_layers"]


def test_the_corpus_is_plain_text_that_ships_with_the_code() -> None:
    assert CORPUS.read_text(encoding="ascii").count(" ") > 500


def test_a_model_that_is_there_is_left_alone(tmp_path: Path) -> None:
    assert ensure_tiny_model(tmp_path) == tmp_path
    assert not list(tmp_path.iterdir())
