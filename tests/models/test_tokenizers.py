"""Tokenizers of families: the mask token that files do not name, and classes that transformers lacks."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest

from tests.tiny import MASK, make_tokenizer
from tide.models import load_config, load_tokenizer


@pytest.fixture
def save(tmp_path):
    """Save a tokenizer without mask token beside a config.json; return the folder's path."""

    def save(model_type, *, special=(), config=None, **tokenizer_config):
        tokenizer = make_tokenizer(300, mask=None)
        tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
        tokenizer.save_pretrained(tmp_path)
        values = {"model_type": model_type, "vocab_size": 400, **(config or {})}
        (tmp_path / "config.json").write_text(json.dumps(values))
        path = tmp_path / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | tokenizer_config))
        return str(tmp_path)

    return save


@pytest.mark.parametrize(
    ("model_type", "token"),
    [("llada2_moe", MASK), ("sdar", "<|MASK|>"), ("Dream", MASK), ("llada", "<|mdm_mask|>")],
)
def test_a_family_names_its_mask_token(save, model_type, token):
    path = save(model_type, special=["<|MASK|>", "<|mdm_mask|>"])
    tokenizer = load_tokenizer(path)
    assert tokenizer.mask_token == token
    assert tokenizer(f"def{token}x")["input_ids"].count(tokenizer.mask_token_id) == 1
    assert len(tokenizer) == 302


def test_wedlm_knows_its_mask_token_by_id(save):
    path = save("wedlm", special=["<|other|>", "<|this|>"], config={"mask_token_id": 301})
    assert load_tokenizer(path).mask_token == "<|this|>"


@pytest.mark.parametrize("recorded", [{}, {"mask_token_id": 300}])
def test_a_converted_model_gets_a_mask_token_after_its_last_id(save, recorded):
    path = save("a2d-qwen3", config=recorded)
    file = Path(path) / "tokenizer.json"
    file.write_text(file.read_text().replace(MASK, "<|mark|>"))
    tokenizer = load_tokenizer(path)
    assert (tokenizer.mask_token, tokenizer.mask_token_id, len(tokenizer)) == (MASK, 300, 301)


@pytest.mark.parametrize("config", [{"mask_token_id": 350}, {}])
def test_an_unknown_mask_token_stays_an_error(save, config):
    with pytest.raises(ValueError, match=r"load_tokenizer: .* has no mask token"):
        load_tokenizer(save("sdar" if config else "qwen3", config=config))


def test_the_models_configuration_may_lie_elsewhere(save, tmp_path):
    path = save("qwen3", special=["<|MASK|>"])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "sdar", "vocab_size": 400}')
    config = load_config(str(tmp_path / "model"))
    assert load_tokenizer(path, config=config).mask_token == "<|MASK|>"


def test_code_that_the_files_name_is_neither_run_nor_asked_about(save, tmp_path, monkeypatch):
    monkeypatch.setattr(builtins, "input", lambda *prompt: pytest.fail("asked on stdin"))
    auto_map = {"AutoConfig": "code.Config", "AutoTokenizer": ["code.Tokenizer", None]}
    path = save("sdar", special=["<|MASK|>"], config={"auto_map": auto_map})
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    assert load_tokenizer(path).mask_token == "<|MASK|>"
    assert not (tmp_path / "executed").exists()


def test_dreams_own_class_falls_back_to_qwen2s(save, tmp_path):
    """From a vocabulary and merges, as it is published."""
    path = save(
        "Dream",
        config={"auto_map": {"AutoConfig": "configuration_dream.DreamConfig"}},
        tokenizer_class="DreamTokenizer",
        auto_map={"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
    )
    (tmp_path / "tokenizer.json").unlink()
    made = make_tokenizer(300)
    made.backend_tokenizer.model.save(path)
    tokenizer = load_tokenizer(path)
    assert type(tokenizer).__name__ == "Qwen2Tokenizer" and tokenizer.mask_token_id == 1
    text = "def size(values)"  # without the digits and lines at which Qwen2 splits otherwise
    assert tokenizer(text)["input_ids"] == made(text)["input_ids"]


def test_dropout_of_merges_is_turned_off_with_a_warning(save):
    path = save("a2d-qwen3")
    file = Path(path) / "tokenizer.json"
    expected = load_tokenizer(path)("def value return " * 20)["input_ids"]
    document = json.loads(file.read_text())
    document["model"]["dropout"] = 0.5
    file.write_text(json.dumps(document))
    with pytest.warns(UserWarning, match=r"load_tokenizer: .*BPE dropout 0\.5.*model\.dropout to null"):
        tokenizer = load_tokenizer(path)
    assert all(tokenizer("def value return " * 20)["input_ids"] == expected for _ in range(3))
