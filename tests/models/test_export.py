"""Exports: read back with the same logits, and with the files that engines and dllm look for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from tests.chat import CHATML
from tests.models.test_conversion import make
from tests.tiny import MASK, make_model, make_tokenizer
from tide.contract import Contract
from tide.models import (
    contract_of,
    convert_model,
    export_model,
    load_config,
    load_model,
    load_tokenizer,
    record_contract,
)

GOLDEN = Path(__file__).parent / "golden"
THETA = 1_000_000.0


@pytest.fixture
def student(tmp_path: Path):
    """Save a student of blocks of 16 with its tokenizer; return the folder's path."""

    def student(*, contract=True, generation=None, **config):
        tokenizer = make_tokenizer(300)
        tokenizer.chat_template = CHATML
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
        rope = {"rope_type": "default", "rope_theta": THETA}
        model = make_model(320, **{"rope_parameters": rope, **config})
        if contract:
            record_contract(model.config, Contract(1, 16))
        if generation is not None:
            model.generation_config = GenerationConfig(**generation)
        model.save_pretrained(tmp_path / "student")
        tokenizer.save_pretrained(tmp_path / "student")
        return str(tmp_path / "student")

    return student


def logits_of(model) -> torch.Tensor:
    """Of a fixed input, under a mask that is not causal."""
    ids = torch.randint(0, 300, (2, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.rand(20, 20, generator=torch.Generator().manual_seed(1)) < 0.7
    mask |= torch.eye(20, dtype=torch.bool)
    with torch.no_grad():
        return model(ids, attention_mask=mask[None, None].expand(2, 1, 20, 20)).logits


def weight_names(folder: Path) -> set[str]:
    return set(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("format", ["sdar", "a2d-qwen3"])
def test_an_export_is_read_back(student, tmp_path, format, tied):
    folder, output = student(tie_word_embeddings=tied), tmp_path / "output"
    done = export_model(folder, str(output), format=format, dtype="float32")
    config, tokenizer = load_config(str(output)), load_tokenizer(str(output))
    model = load_model(str(output), trainable=False)
    original = load_model(folder, trainable=False)
    assert torch.equal(logits_of(model), logits_of(original))
    assert (done.contract.mask_id, done.contract.block_size, done.mask_token) == (1, 16, MASK)
    assert contract_of(config, tokenizer) == Contract(1, 16, rates=(1e-3, 1.0))
    assert (config.model_type, config.rope_parameters["rope_theta"]) == (format, THETA)
    assert (tokenizer.mask_token, tokenizer.mask_token_id) == (MASK, 1)
    assert tokenizer.chat_template == CHATML

    # The same weights under Qwen3's names, as engines and dllm read them; SDAR's head is never tied.
    weights, names = load_file(output / "model.safetensors"), set(original.state_dict())
    untied = format == "sdar" or not tied
    assert set(weights) == (names if untied else names - {"lm_head.weight"})
    for name, weight in weights.items():
        assert torch.equal(weight, original.state_dict()[name]), name
    assert done.num_parameters == sum(weight.numel() for weight in weights.values())
    with torch.device("meta"):
        host = Qwen3ForCausalLM(Qwen3Config.from_pretrained(output))
    assert set(host.state_dict()) == names


def test_the_configuration_of_sdar_is_what_engines_read(student, tmp_path):
    export_model(student(), str(tmp_path / "output"), format="sdar")
    values = json.loads((tmp_path / "output" / "config.json").read_text())
    expected = {
        "architectures": ["SDARForCausalLM"],
        "model_type": "sdar",
        "block_size": 16,
        "mask_token_id": 1,
        "rope_theta": THETA,
        "rope_scaling": None,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "auto_map": {"AutoConfig": "configuration_sdar.SDARConfig"},
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 320,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 512,
    }
    assert {key: values.get(key, "missing") for key in expected} == expected
    assert "rope_parameters" not in values
    assert yaml.safe_load((tmp_path / "output" / "sglang.yaml").read_text()) == {"block_size": 16}


def test_the_configuration_of_a2d_is_what_dllm_reads(student, tmp_path):
    export_model(student(), str(tmp_path / "output"), format="a2d-qwen3")
    values = json.loads((tmp_path / "output" / "config.json").read_text())
    expected = {
        "architectures": ["A2DQwen3LMHeadModel"],
        "model_type": "a2d-qwen3",
        "rope_theta": THETA,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "vocab_size": 320,
    }
    assert {key: values.get(key, "missing") for key in expected} == expected
    assert "auto_map" not in values and "rope_parameters" not in values
    files = {path.name for path in (tmp_path / "output").iterdir()}
    assert not files & {"configuration_sdar.py", "sglang.yaml"}


@pytest.mark.parametrize("format", ["sdar", "a2d-qwen3"])
def test_version_4_of_transformers_finds_the_tokenizers_class(student, tmp_path, format):
    export_model(student(), str(tmp_path / "output"), format=format)
    values = json.loads((tmp_path / "output" / "tokenizer_config.json").read_text())
    assert values["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert values["additional_special_tokens"] == ["<|im_end|>"] and "extra_special_tokens" not in values
    loaded, original = load_tokenizer(str(tmp_path / "output")), load_tokenizer(str(tmp_path / "student"))
    assert loaded.all_special_tokens == original.all_special_tokens
    text = f"def size(x)<|im_end|>{MASK}"
    assert loaded(text)["input_ids"] == original(text)["input_ids"]


READ_AS_AN_ENGINE = """
import copy, json, pickle, sys
from transformers import AutoConfig
config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
copies = config, copy.deepcopy(config), pickle.loads(pickle.dumps(config))
read = [getattr(one, "rope_theta", 10000) for one in copies]
names = "block_size", "mask_token_id", "tie_word_embeddings", "architectures", "model_type"
values = [getattr(config, name) for name in names]
print(json.dumps([read, type(config).__name__, hasattr(config, "other"), *values]))
"""


def test_an_engine_reads_rope_theta_through_the_shipped_class(student, tmp_path):
    export_model(student(), str(tmp_path / "output"), format="sdar")
    done = subprocess.run(
        [sys.executable, "-c", READ_AS_AN_ENGINE, str(tmp_path / "output")],
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [
        [THETA] * 3,
        "SDARConfig",
        False,
        16,
        1,
        False,
        ["SDARForCausalLM"],
        "sdar",
    ]


@pytest.mark.parametrize("format", ["sdar", "a2d-qwen3"])
def test_weights_are_bfloat16_by_default(student, tmp_path, format):
    folder = student()
    export_model(folder, str(tmp_path / "output"), format=format)
    weights = load_file(tmp_path / "output" / "model.safetensors")
    original = load_model(folder, trainable=False).state_dict()
    for name, weight in weights.items():
        assert torch.equal(weight, original[name].bfloat16()), name


@pytest.mark.parametrize(
    ("generation", "ends"),
    [(None, [0, 300]), ({"eos_token_id": [5, 0], "do_sample": True, "temperature": 0.6}, [0, 5, 300])],
)
def test_answers_end_at_every_token_that_ends_them(student, tmp_path, generation, ends):
    export_model(student(generation=generation), str(tmp_path / "output"), format="sdar")
    written = json.loads((tmp_path / "output" / "generation_config.json").read_text())
    assert written["eos_token_id"] == ends
    assert written.get("temperature") == (generation or {}).get("temperature")


@pytest.mark.parametrize("name", ["a2d_qwen3", "sdar"])
@pytest.mark.parametrize("format", ["a2d-qwen3", "sdar"])
def test_published_layouts_turn_into_each_other(name, format, tmp_path):
    folder = shutil.copytree(GOLDEN / name, tmp_path / name)
    tokenizer = make_tokenizer(310, mask=None)
    tokenizer.add_special_tokens({"mask_token": "<|MASK|>"})
    tokenizer.save_pretrained(folder)
    output = tmp_path / "output"
    done = export_model(str(folder), str(output), format=format, dtype="float32")
    assert (done.contract.mask_id, done.contract.block_size) == (310, 8 if name == "sdar" else 32)
    exported, original = (load_model(str(path), trainable=False) for path in (output, folder))
    assert torch.equal(logits_of(exported), logits_of(original))
    assert contract_of(load_config(str(output)), tokenizer) == done.contract


def test_a_converted_model_is_exported(tmp_path):
    original = make("qwen3", 300, tied=True)
    original.save_pretrained(tmp_path / "ar")
    make_tokenizer(300).save_pretrained(tmp_path / "ar")
    convert_model(str(tmp_path / "ar"), str(tmp_path / "student"), mask_token="<|new|>")
    export_model(str(tmp_path / "student"), str(tmp_path / "output"), format="sdar", dtype="float32")
    exported = load_model(str(tmp_path / "output"), trainable=False)
    assert torch.equal(logits_of(exported)[..., :300], logits_of(original))
    assert contract_of(load_config(str(tmp_path / "output"))).mask_id == 300


def test_a_block_size_that_is_not_recorded_is_given(student, tmp_path):
    folder = student(contract=False)
    with pytest.raises(ValueError, match=r"contract_of: .* config.json records no block_size"):
        export_model(folder, str(tmp_path / "output"), format="sdar")
    assert not (tmp_path / "output").exists()
    export_model(folder, str(tmp_path / "output"), format="sdar", block_size=8)
    assert contract_of(load_config(str(tmp_path / "output"))) == Contract(1, 8, rates=(1e-3, 1.0))


def test_a_mask_id_that_engines_do_not_know_is_warned_of(student, tmp_path):
    (line,) = export_model(student(), str(tmp_path / "output"), format="sdar").warnings
    assert "mask with id 151669" in line and "the student's is 1" in line


def test_a_mask_token_that_dllm_does_not_know_is_warned_of(student, tmp_path):
    folder = student()
    assert export_model(folder, str(tmp_path / "known"), format="a2d-qwen3").warnings == ()
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    tokenizer.save_pretrained(folder)
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask_token_id": tokenizer.mask_token_id}))
    (line,) = export_model(folder, str(tmp_path / "output"), format="a2d-qwen3").warnings
    assert "dllm masks with <|mask|>" in line and "[MASK]" in line


@pytest.mark.parametrize(
    ("model_type", "format"), [("llama", "sdar"), ("qwen2", "a2d-qwen3"), ("qwen3", "a2d-llama")]
)
def test_other_networks_are_refused(model_type, format, tmp_path):
    folder = converted(model_type, tmp_path)
    with pytest.raises(ValueError, match=f"export: .* is a {model_type} model, and {format} holds"):
        export_model(folder, str(tmp_path / "output"), format=format)


def converted(model_type, tmp_path):
    make(model_type, 300, tied=True).save_pretrained(tmp_path / "ar")
    make_tokenizer(300).save_pretrained(tmp_path / "ar")
    convert_model(str(tmp_path / "ar"), str(tmp_path / "student"), block_size=16)
    return str(tmp_path / "student")


def test_a_student_of_llama_is_exported(tmp_path):
    folder, output = converted("llama", tmp_path), str(tmp_path / "output")
    assert export_model(folder, output, format="a2d-llama", dtype="float32").warnings == ()
    values = json.loads((tmp_path / "output" / "config.json").read_text())
    assert values["architectures"] == ["A2DLlamaLMHeadModel"] and values["model_type"] == "a2d-llama"
    original = load_model(folder, trainable=False)
    assert values["rope_theta"] == original.config.rope_parameters["rope_theta"]
    exported = load_model(output, trainable=False)
    assert torch.equal(logits_of(exported), logits_of(original))
    assert contract_of(load_config(output), load_tokenizer(output)) == Contract(1, 16, rates=(1e-3, 1.0))


def test_observed_first_blocks_are_refused(tmp_path):
    folder = shutil.copytree(GOLDEN / "wedlm", tmp_path / "wedlm")
    tokenizer = make_tokenizer(310, mask=None)
    tokenizer.add_special_tokens({"mask_token": MASK, "additional_special_tokens": []})
    tokenizer.save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text()) | {"mask_token_id": tokenizer.mask_token_id}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(
        ValueError, match=r"export: the formats .* bidirectional blocks; got .*observed_first"
    ):
        export_model(str(folder), str(tmp_path / "output"), format="sdar")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"attention_bias": True}, "attention_bias True"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window True"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": THETA}},
            "rope_type 'linear'",
        ),
    ],
)
def test_what_readers_do_not_compute_is_refused(student, tmp_path, config, named):
    with pytest.raises(ValueError, match=f"export: .* has {named}, and the programs"):
        export_model(student(**config), str(tmp_path / "output"), format="sdar")


def test_nothing_is_overwritten_and_formats_are_checked(student, tmp_path):
    folder = student()
    with pytest.raises(ValueError, match=r"export: .*student' is not an empty folder"):
        export_model(folder, folder, format="sdar")
    with pytest.raises(ValueError, match=r"format must be one of sdar, a2d-qwen3, a2d-llama; got 'gguf'"):
        export_model(folder, str(tmp_path / "output"), format="gguf")
