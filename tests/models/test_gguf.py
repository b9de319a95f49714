"""GGUF files: configuration, dequantized weights and tokenizer of one file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PretrainedConfig

from tests.tiny import END, MASK, make_model, make_tokenizer
from tide.contract import AUTOREGRESSIVE
from tide.models import check_weights, contract_of, convert_model, load_config, load_model, load_tokenizer

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A GGUF file of a tiny model with Q8_0 matrices, and the weights that it stands for."""
    # transformers reads no head size from the file, and takes Qwen3's.
    model, tokenizer = make_model(300, intermediate_size=64, head_dim=128), make_tokenizer(300)
    config, path = model.config, tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokens = tokenizer.convert_ids_to_tokens(range(300))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in (END, MASK) else 1 for token in tokens])  # 3: special
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    names, weights = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers), {}
    for name, weight in model.state_dict().items():
        stem, suffix = name.rsplit(".", 1)
        if stem == "lm_head":
            continue
        values = weight.numpy()
        kind = gguf.GGMLQuantizationType.Q8_0 if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        packed = gguf.quantize(values, kind)
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", packed, raw_dtype=kind)
        weights[name] = torch.from_numpy(np.array(gguf.dequantize(packed, kind), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, weights


@pytest.mark.parametrize("trainable", [False, True])
def test_weights_are_dequantized_and_can_be_saved(written, tmp_path, trainable):
    path, weights = written
    check_weights(str(path))
    model = load_model(str(path), trainable=trainable)
    assert model.training == trainable and model.config.model_type == "qwen3"
    assert model.config.rope_parameters["rope_theta"] == make_model(300).config.rope_parameters["rope_theta"]
    model.save_pretrained(tmp_path)
    for loaded in (model, load_model(str(tmp_path), trainable=False)):
        state = loaded.state_dict()
        assert state.keys() - weights.keys() == {"lm_head.weight"}
        for name, weight in weights.items():
            assert torch.equal(state[name], weight), name
    assert not hasattr(model.config, "quantization_config")


def test_configuration_and_tokenizer_come_from_the_file(written):
    path, _ = written
    config = load_config(str(path))
    assert (config.hidden_size, config.vocab_size) == (32, 300)
    assert contract_of(config) == AUTOREGRESSIVE
    tokenizer = load_tokenizer(str(path), needs_mask=False)
    text = "def size(values)"
    assert tokenizer(text)["input_ids"] == make_tokenizer(300)(text)["input_ids"]
    assert tokenizer.eos_token == END


def test_the_configuration_is_read_once_and_again_when_the_file_changes(written, tmp_path, monkeypatch):
    path = tmp_path / "copy.gguf"
    shutil.copyfile(written[0], path)
    read, calls = PretrainedConfig.get_config_dict, []
    monkeypatch.setattr(PretrainedConfig, "get_config_dict", lambda *a, **k: calls.append(a) or read(*a, **k))
    first = load_config(str(path))
    first.vocab_size = 1
    assert load_config(str(path)).vocab_size == 300 and len(calls) == 1
    os.utime(path, ns=(0, 0))
    assert load_config(str(path)).vocab_size == 300 and len(calls) == 2


def test_a_file_is_converted(written, tmp_path):
    path, weights = written
    done = convert_model(str(path), str(tmp_path / "output"), mask_token="<|new|>")
    tokenizer = load_tokenizer(str(tmp_path / "output"))
    assert (tokenizer.mask_token, tokenizer.mask_token_id) == ("<|new|>", done.contract.mask_id)
    assert contract_of(load_config(str(tmp_path / "output")), tokenizer) == done.contract
    state = load_model(str(tmp_path / "output"), trainable=False).state_dict()
    for name, weight in weights.items():
        assert torch.equal(state[name][: len(weight)], weight), name
    assert len(state["model.embed_tokens.weight"]) == 300 + done.added_rows == done.contract.mask_id + 1


@pytest.mark.parametrize("load", [load_config, load_tokenizer])
def test_a_missing_or_broken_file_is_an_error(tmp_path: Path, load):
    path = tmp_path / "model.gguf"
    with pytest.raises(ValueError, match=rf"{load.__name__}: no file '.*model.gguf' here"):
        load(str(path))
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ValueError, match=rf"{load.__name__}: no readable .* at '.*model.gguf'"):
        load(str(path))
