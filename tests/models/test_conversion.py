"""Conversion: logits of old ids stay, the mask token has an embedding, and the contract is read back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.chat import CHATML
from tests.tiny import END, MASK, make_model, make_tokenizer
from tide.contract import Contract
from tide.models import contract_of, convert_model, load_config, load_model, load_tokenizer
from tide.models.paths import new_folder

CLASSES = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "gemma3_text": (Gemma3TextConfig, Gemma3ForCausalLM),
}
NEW_MASK = "<|hidden|>"


def tokenizer_without_mask_token(*special: str):
    """300 entries, none of which looks like a mask token, but for `special` after them."""
    tokenizer = make_tokenizer(300, mask=None)
    values = tokenizer.backend_tokenizer.to_str().replace(MASK, "<|mark|>")
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer.from_str(values), eos_token=END)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = CHATML
    return tokenizer


def make(model_type: str, vocab_size: int, *, tied: bool) -> PreTrainedModel:
    config_class, model_class = CLASSES[model_type]
    torch.manual_seed(0)
    config = config_class(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
    )
    return model_class(config).eval()


@pytest.fixture
def source(tmp_path: Path):
    """Save a model with a tokenizer; return the folder's path."""

    def source(model, tokenizer):
        model.save_pretrained(tmp_path / "source")
        tokenizer.save_pretrained(tmp_path / "source")
        return str(tmp_path / "source")

    return source


def logits_of(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("vocab_size", [300, 320])
@pytest.mark.parametrize("model_type", CLASSES)
def test_logits_of_old_ids_stay(model_type, vocab_size, tied, source, tmp_path):
    original = make(model_type, vocab_size, tied=tied)
    output = str(tmp_path / "output")
    folder = source(original, tokenizer_without_mask_token())
    mask_id = len(load_tokenizer(folder, needs_mask=False))  # 300, or after tokens that Qwen2's class adds
    done = convert_model(folder, output, block_size=8)
    added = max(0, mask_id + 1 - vocab_size)
    assert (done.mask_token, done.contract, done.added_rows) == (MASK, Contract(mask_id, 8), added)

    model, tokenizer = load_model(output, trainable=False), load_tokenizer(output)
    assert done.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert contract_of(load_config(output), tokenizer) == done.contract
    assert (tokenizer.mask_token, tokenizer.mask_token_id, len(tokenizer)) == (MASK, mask_id, mask_id + 1)
    assert tokenizer.chat_template == CHATML
    assert model.config.model_type == model_type and model.config.vocab_size == vocab_size + added
    ids = torch.randint(0, 300, (2, 20), generator=torch.Generator().manual_seed(1))
    expected = logits_of(original, ids)
    logits = logits_of(model, ids)
    assert logits.shape[-1] == vocab_size + added
    assert torch.equal(logits[..., :vocab_size], expected)

    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (head is embedding) == tied
    for weight, before in (
        (embedding, original.get_input_embeddings().weight),
        (head, original.get_output_embeddings().weight),
    ):
        assert torch.equal(weight[:vocab_size], before)
        if added:
            mean = before.double().mean(0).float()
            torch.testing.assert_close(weight[vocab_size:], mean.expand(added, -1))


def test_a_converted_model_reads_the_mask_token(source, tmp_path):
    convert_model(
        source(make("llama", 300, tied=True), tokenizer_without_mask_token()), str(tmp_path / "output")
    )
    model = load_model(str(tmp_path / "output"), trainable=False)
    tokenizer = load_tokenizer(str(tmp_path / "output"))
    ids = tokenizer(f"def{MASK}(x)", return_tensors="pt")["input_ids"]
    assert (ids == 300).sum() == 1
    assert logits_of(model, ids).isfinite().all()


@pytest.mark.parametrize(
    ("tokenizer", "given", "mask"),
    [
        (make_tokenizer(300), None, (MASK, 1)),  # its own
        (make_tokenizer(300, mask=None), None, (MASK, 1)),  # without the role
        (tokenizer_without_mask_token("[MASK]", "<mask>"), None, ("[MASK]", 300)),
        (tokenizer_without_mask_token("<spare>"), "<spare>", ("<spare>", 300)),
        (make_tokenizer(300), NEW_MASK, (NEW_MASK, 300)),
    ],
)
def test_the_mask_token_is_chosen(source, tmp_path, tokenizer, given, mask):
    folder = source(make_model(320), tokenizer)
    done = convert_model(folder, str(tmp_path / "output"), mask_token=given)
    assert (done.mask_token, done.contract.mask_id, done.added_rows) == (*mask, 0)
    loaded = load_tokenizer(str(tmp_path / "output"))
    assert (loaded.mask_token, loaded.mask_token_id) == mask
    assert done.contract.block_size == 32


def test_a_mask_token_that_is_also_padding_is_replaced(source, tmp_path):
    tokenizer = make_tokenizer(300)
    tokenizer.add_special_tokens({"pad_token": MASK, "additional_special_tokens": ["[MASK]"]})
    done = convert_model(source(make_model(320), tokenizer), str(tmp_path / "output"))
    assert done.mask_token == "[MASK]"


@pytest.mark.parametrize(("text", "what"), [(END, "is also eos"), ("", "is empty")])
def test_a_mask_token_with_another_role_is_an_error(source, tmp_path, text, what):
    folder = source(make_model(300), make_tokenizer(300))
    with pytest.raises(ValueError, match=f"convert: the mask token needs .* which {what}.*--mask-token"):
        convert_model(folder, str(tmp_path / "output"), mask_token=text)
    assert not (tmp_path / "output").exists()


def test_generation_settings_are_kept(source, tmp_path):
    model = make_model(300)
    model.generation_config = GenerationConfig(eos_token_id=[0, 5], do_sample=True, temperature=0.6)
    convert_model(source(model, make_tokenizer(300)), str(tmp_path / "output"))
    kept = GenerationConfig.from_pretrained(tmp_path / "output")
    assert (kept.eos_token_id, kept.do_sample, kept.temperature) == ([0, 5], True, 0.6)


@pytest.mark.parametrize(
    ("stored", "asked", "written"),
    [
        ("bfloat16", None, "bfloat16"),
        ("float32", None, "float32"),
        ("bfloat16", "float32", "float32"),
        ("float32", "float16", "float16"),
    ],
)
def test_weights_keep_their_type_unless_another_is_given(source, tmp_path, stored, asked, written):
    model = make_model(300).to(getattr(torch, stored))
    convert_model(source(model, tokenizer_without_mask_token()), str(tmp_path / "output"), dtype=asked)
    assert json.loads((tmp_path / "output" / "config.json").read_text())["dtype"] == written
    loaded = load_model(str(tmp_path / "output"), trainable=False).state_dict()
    for name, weight in model.state_dict().items():
        expected = weight.to(getattr(torch, written)).float()
        assert torch.equal(loaded[name][: len(weight)], expected), name


def test_a_converted_model_is_not_converted_again(source, tmp_path):
    convert_model(source(make_model(300), make_tokenizer(300)), str(tmp_path / "output"))
    with pytest.raises(ValueError, match=r"convert: .* is a diffusion model already"):
        convert_model(str(tmp_path / "output"), str(tmp_path / "again"))


@pytest.mark.parametrize("name", ["a2d_qwen3", "dream", "llada", "llada2", "sdar", "wedlm"])
def test_diffusion_models_are_refused(name, tmp_path):
    folder = Path(__file__).parent / "golden" / name
    with pytest.raises(ValueError, match=r"convert: .* is a diffusion model already"):
        convert_model(str(folder), str(tmp_path / "output"))
    assert not (tmp_path / "output").exists()


def test_other_families_are_refused(tmp_path):
    MixtralConfig().save_pretrained(tmp_path / "source")
    with pytest.raises(
        ValueError, match=r"convert: .* is a mixtral model; qwen3, .* can be converted\. Take"
    ):
        convert_model(str(tmp_path / "source"), str(tmp_path / "output"))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_is_overwritten(source, tmp_path, kind):
    folder = source(make_model(300), make_tokenizer(300))
    output = tmp_path / "output"
    witness = output if kind == "file" else output / "notes.txt"
    witness.parent.mkdir(exist_ok=True)
    witness.write_text("mine")
    with pytest.raises(ValueError, match=r"convert: .*output' is not an empty folder"):
        convert_model(folder, str(output))
    assert witness.read_text() == "mine"


def test_a_killed_conversion_is_run_again(source, tmp_path):
    output = tmp_path / "new" / "output"
    program = (
        "import os, sys\nfrom tide.models.paths import new_folder\n"
        "with new_folder('convert', sys.argv[1]) as folder:\n"
        "    (folder / 'model.safetensors.part').touch()\n    os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(output)]).returncode == -9
    assert list(output.iterdir())
    convert_model(source(make_model(300), make_tokenizer(300)), str(output))
    assert not [path for path in output.rglob("*") if path.name.startswith(".") or path.suffix == ".part"]
    assert load_config(str(output)).block_size == 32


def test_weights_come_last(tmp_path):
    with pytest.raises(OSError), new_folder("convert", str(tmp_path / "output")) as folder:
        for number in range(20):
            (folder / f"model-{number}.safetensors").touch()
        (folder / "tokenizer.json").touch()
        (tmp_path / "output" / "tokenizer.json").mkdir()
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["tokenizer.json"]


def test_an_empty_folder_is_written_to(source, tmp_path):
    (tmp_path / "output").mkdir()
    convert_model(source(make_model(300), make_tokenizer(300)), str(tmp_path / "output"))
    assert load_config(str(tmp_path / "output")).block_size == 32
