"""Loading checkpoints: their state, and one error for each way that loading fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    GraniteConfig,
    GraniteForCausalLM,
    PretrainedConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging as transformers_logging

from tests.tiny import make_model, make_tokenizer
from tide.models import load_config, load_model, load_tokenizer, without_progress_bars


@pytest.fixture
def checkpoint(tiny_checkpoints, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return shutil.copytree(tiny_checkpoints.student, tmp_path / "checkpoint")


def edit_config(checkpoint: Path, **changes: object) -> None:
    path = checkpoint / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def edit_weights(checkpoint: Path, edit) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    edit(weights)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})


def test_weights_arrive_as_they_were_saved(tiny_checkpoints):
    model = load_model(str(tiny_checkpoints.student), trainable=True)
    saved = make_model(300, seed=1).state_dict()
    assert saved.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, saved[name]), name


def test_a_model_is_trainable_or_frozen(tiny_checkpoints):
    student = load_model(str(tiny_checkpoints.student), trainable=True)
    teacher = load_model(str(tiny_checkpoints.teacher), trainable=False)
    assert student.training and all(parameter.requires_grad for parameter in student.parameters())
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_parameters_have_the_dtype_asked_for(tiny_checkpoints, dtype):
    model = load_model(str(tiny_checkpoints.student), dtype=dtype, trainable=False)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_half_precision_weights_load_as_fp32_masters(tiny_checkpoints, checkpoint):
    make_model(300, seed=1).half().save_pretrained(checkpoint)
    model = load_model(str(checkpoint), trainable=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    saved = make_model(300, seed=1).half().state_dict()
    assert all(torch.equal(value, saved[name].float()) for name, value in model.state_dict().items())


def test_a_converted_checkpoint_is_hosted_by_qwen3(checkpoint):
    edit_config(
        checkpoint,
        model_type="a2d-qwen3",
        architectures=["A2DQwen3LMHeadModel"],
        auto_map={"AutoModelForCausalLM": "modeling_a2d.A2DQwen3LMHeadModel"},
    )
    config = load_config(str(checkpoint))
    assert isinstance(config, Qwen3Config) and config.model_type == "a2d-qwen3"
    assert (config.hidden_size, config.vocab_size, config.num_key_value_heads) == (32, 300, 2)
    model = load_model(str(checkpoint), trainable=False)
    assert isinstance(model, Qwen3ForCausalLM)
    assert torch.equal(model.model.norm.weight, make_model(300, seed=1).model.norm.weight)
    assert torch.equal(model.lm_head.weight, make_model(300, seed=1).lm_head.weight)


def test_a_stored_copy_of_a_tied_head_loads(checkpoint):
    edit_weights(checkpoint, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    model = load_model(str(checkpoint), trainable=False)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("pad", [0, 7])
def test_the_padding_token_gets_a_gradient(tmp_path, pad):
    """torch gives a padding row none, and the padding token may also be end-of-text."""
    make_model(300, pad_token_id=pad, tie_word_embeddings=False).save_pretrained(tmp_path)
    used = torch.tensor([[3, pad, 5, pad]])

    def embedding_gradient(model: Qwen3ForCausalLM) -> torch.Tensor:
        model(used).logits.square().mean().backward()
        return model.get_input_embeddings().weight.grad

    as_transformers_loads_it = embedding_gradient(Qwen3ForCausalLM.from_pretrained(tmp_path))
    gradient = embedding_gradient(load_model(str(tmp_path), trainable=True))
    assert not as_transformers_loads_it[pad].any()
    assert gradient.any(1).nonzero().flatten().tolist() == sorted({3, 5, pad})
    others = [3, 5]
    torch.testing.assert_close(gradient[others], as_transformers_loads_it[others])


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_a_head_that_scales_otherwise_is_refused(tmp_path, scale):
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GraniteConfig(
        vocab_size=30, num_key_value_heads=1, initializer_range=0.5, logits_scaling=scale, **shape
    )
    GraniteForCausalLM(config).save_pretrained(tmp_path)
    if scale == 1:
        load_model(str(tmp_path), dtype="bfloat16", trainable=False)
    else:
        with pytest.raises(ValueError, match="load_model: granite models compute more than a product"):
            load_model(str(tmp_path), dtype="bfloat16", trainable=False)


def test_attention_is_sdpa(tiny_checkpoints):
    """`run` refuses any other."""
    assert load_model(str(tiny_checkpoints.student), trainable=False).config._attn_implementation == "sdpa"


def test_a_tokenizer_loads_with_its_mask_token(tiny_checkpoints, word_tokenizer):
    tokenizer = load_tokenizer(str(tiny_checkpoints.student))
    assert (tokenizer.mask_token_id, tokenizer.eos_token_id, len(tokenizer)) == (1, 0, 300)
    text = "def size(values):\n    return 12\n"
    assert tokenizer(text)["input_ids"] == word_tokenizer(text)["input_ids"]


# Each damages a good checkpoint.
def remove_config(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()


def break_config(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text('{"model_type": "qwen3",')


def other_architecture(checkpoint: Path) -> None:
    edit_config(checkpoint, model_type="bert2")


def no_architecture(checkpoint: Path) -> None:
    edit_config(checkpoint, model_type=None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_config, r"load_config: no readable config.json at .*checkpoint.*no such file.*Give a folder"),
        (break_config, r"load_config: no readable config.json at .*checkpoint.*Give a folder"),
        (other_architecture, r"load_config: .* model_type 'bert2'; supported are llada2, .* Convert"),
        (no_architecture, r"load_config: .* model_type None; supported are llada2, .* Convert"),
    ],
)
def test_unreadable_or_unsupported_configurations_are_errors(checkpoint, damage, message):
    damage(checkpoint)
    for load in (load_config, lambda path: load_model(path, trainable=False)):
        with pytest.raises(ValueError, match=message) as caught:
            load(str(checkpoint))
        assert "\n" not in str(caught.value)


def remove_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()


def cut_weights(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"\xff" * 4096)


def drop_a_weight(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))


def add_a_weight(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda w: w.update({"model.layers.7.extra.weight": torch.ones(2)}))


def widen_the_config(checkpoint: Path) -> None:
    edit_config(checkpoint, intermediate_size=64)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_weights, r"cannot be read .*Copy or download the checkpoint again"),
        (cut_weights, r"cannot be read .*Copy or download the checkpoint again"),
        (garble_weights, r"cannot be read .*Copy or download the checkpoint again"),
        (drop_a_weight, r".*\(missing_keys: model\.layers\.1\.mlp\.up_proj\.weight.*correct config\.json"),
        (add_a_weight, r".*\(unexpected_keys: model\.layers\.7\.extra\.weight.*correct config\.json"),
        (widen_the_config, r"(cannot be read|do not match its config\.json)"),
    ],
)
def test_unfit_weights_are_errors(checkpoint, damage, message, capfd):
    damage(checkpoint)
    with pytest.raises(ValueError, match=rf"load_model: the weights at .*checkpoint.* {message}") as caught:
        load_model(str(checkpoint), trainable=True)
    assert "\n" not in str(caught.value)
    assert "LOAD REPORT" not in "".join(capfd.readouterr())  # many lines, ahead of ours


@pytest.mark.parametrize("load", [load_tokenizer, load_config])
@pytest.mark.parametrize(
    "place", ["/nowhere", "./nowhere", "../nowhere", "~/nowhere", "a/b/c", "runs/nowhere"]
)
def test_a_mistyped_folder_is_not_looked_up_on_the_hub(load, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for module, name in ((AutoTokenizer, "from_pretrained"), (PretrainedConfig, "get_config_dict")):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: pytest.fail("the hub was asked"))
    with pytest.raises(ValueError) as caught:
        load(place)
    assert str(caught.value).startswith(f"{load.__name__}: no folder {place!r} here. Give a folder saved by ")


@pytest.mark.parametrize("load", [load_tokenizer, load_config])
@pytest.mark.parametrize("place", ["nowhere", "nowhere/model"])
def test_a_name_that_is_no_folder_and_not_on_the_hub_is_an_error(load, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"^{load.__name__}: no folder '{place}' here; no readable .* hub"):
        load(place)


def test_a_broken_tokenizer_is_an_error(checkpoint):
    (checkpoint / "tokenizer.json").write_text('{"version": "1.0", "model":')
    with pytest.raises(
        ValueError, match=r"load_tokenizer: no readable tokenizer at .*checkpoint.* Give a folder"
    ):
        load_tokenizer(str(checkpoint))


@pytest.mark.parametrize(
    ("other", "suggested"),
    [
        ({}, "'<|mask|>'"),
        ({"pad_token": "<|mask|>"}, "..."),
        ({"pad_token": "<|mask|>", "additional_special_tokens": ["[Mask]", "<MASK2>"]}, "'[Mask]'"),
    ],
)
def test_without_a_mask_token_the_remedy_names_one_that_is_free(tmp_path, other, suggested):
    tokenizer = make_tokenizer(260, mask=None)
    tokenizer.add_special_tokens(other)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no mask token") as raised:
        load_tokenizer(str(tmp_path))
    assert f"(tokenizer.mask_token = {suggested})" in str(raised.value)
    assert "resize_token_embeddings" in str(raised.value)


@pytest.mark.parametrize("roles", [["eos"], ["pad"], ["bos"], ["bos", "pad"]])
def test_a_mask_token_with_another_role_is_an_error(tmp_path, roles):
    tokenizer = make_tokenizer(260)
    for role in roles:
        setattr(tokenizer, f"{role}_token", tokenizer.mask_token)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"load_tokenizer: .* as mask and {' and '.join(roles)}\."):
        load_tokenizer(str(tmp_path))


def test_eos_pad_and_bos_may_be_one_token(tmp_path):
    tokenizer = make_tokenizer(260)
    tokenizer.pad_token = tokenizer.bos_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert (loaded.bos_token_id, loaded.pad_token_id, loaded.eos_token_id, loaded.mask_token_id) == (
        0,
        0,
        0,
        1,
    )


def test_progress_bars_are_restored(monkeypatch):
    for shown in (True, False):
        switch = (
            transformers_logging.enable_progress_bar if shown else transformers_logging.disable_progress_bar
        )
        switch()
        with pytest.raises(RuntimeError), without_progress_bars():
            assert not transformers_logging.is_progress_bar_enabled()
            raise RuntimeError
        assert transformers_logging.is_progress_bar_enabled() == shown
    transformers_logging.enable_progress_bar()
