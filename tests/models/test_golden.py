"""Published files of every family, by tiny checkpoints with the logits of the makers' code or of the host."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2ForCausalLM, Qwen3MoeForCausalLM

from tide.models import FAMILIES, contract_of, load_config, load_model

GOLDEN = Path(__file__).parent / "golden"
NAMES = ["a2d_qwen3", "dream", "llada", "llada2", "sdar", "wedlm"]
BLOCK_SIZE = 8


def logits_of(model, ids, positions, mask) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, position_ids=positions, attention_mask=mask.bool()[None, None]).logits


def check_logits(model, folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    logits = logits_of(model, expected["input_ids"], expected["position_ids"], expected["mask"])
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=2e-6)


def check_weights_equal(saved: Path, original: dict[str, torch.Tensor]) -> None:
    weights = {}
    for file in saved.glob("*.safetensors"):
        weights |= load_file(file)
    assert weights.keys() == original.keys()
    for name, weight in original.items():
        assert torch.equal(weights[name], weight), name


@pytest.fixture
def copy_of(tmp_path: Path):
    """A copy of a golden checkpoint that the test may change."""
    return lambda name: shutil.copytree(GOLDEN / name, tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_makers_code(name):
    check_logits(load_model(str(GOLDEN / name), trainable=False), GOLDEN / name)


@pytest.mark.parametrize("name", NAMES)
def test_saving_writes_the_names_values_and_contract_that_were_read(name, tmp_path):
    """From one file, and from its own shards."""
    original = load_file(GOLDEN / name / "model.safetensors")
    config = load_config(str(GOLDEN / name))
    model = load_model(str(GOLDEN / name), trainable=False)
    for size, shards in (("1GB", 1), ("100KB", None)):
        model.save_pretrained(tmp_path / size, max_shard_size=size)
        num_shards = len(list((tmp_path / size).glob("*.safetensors")))
        assert num_shards == shards if shards else num_shards > 2
        check_weights_equal(tmp_path / size, original)
        model = load_model(str(tmp_path / size), trainable=False)
        check_logits(model, GOLDEN / name)
    saved = json.loads((tmp_path / "1GB" / "config.json").read_text())
    read = json.loads((GOLDEN / name / "config.json").read_text())
    kept = read.keys() - {"torch_dtype", "pad_token_id"}  # a padding token outside the vocabulary is left out
    assert {key: saved.get(key) for key in kept} == {key: read[key] for key in kept}
    fields = {"mask_id": 310}
    again = load_config(str(tmp_path / "1GB"))
    assert contract_of(again, values=fields) == contract_of(config, values=fields)


@pytest.mark.parametrize("name", ["llada", "llada2"])
def test_pytorch_files_load_too(copy_of, name):
    folder = copy_of(name)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    check_logits(load_model(str(folder), trainable=False), GOLDEN / name)


@pytest.mark.parametrize("name", ["llada", "llada2"])
def test_a_weight_too_few_is_an_error(copy_of, name):
    folder = copy_of(name)
    weights = load_file(folder / "model.safetensors")
    del weights[max(key for key in weights if "ff_out" in key or "expert" in key)]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="load_model: the weights at"):
        load_model(str(folder), trainable=False)


def test_merged_experts_load_and_are_saved_merged(copy_of, tmp_path):
    """The layout of dFactory, `llada2_moe_veomni`: [experts, out, in]."""
    folder = copy_of("llada2")
    weights = load_file(folder / "model.safetensors")
    merged = {name: weight for name, weight in weights.items() if ".experts." not in name}
    for layer in (1, 2):
        for part in ("gate", "up", "down"):
            names = [f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight" for expert in range(32)]
            merged[f"model.layers.{layer}.mlp.experts.{part}_proj"] = torch.stack([weights[n] for n in names])
    save_file(merged, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "llada2_moe_veomni"}
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(str(folder), trainable=False)
    check_logits(model, GOLDEN / "llada2")
    model.save_pretrained(tmp_path / "saved")
    check_weights_equal(tmp_path / "saved", merged)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_how_experts_are_computed_can_be_set(implementation):
    model = load_model(str(GOLDEN / "llada2"), trainable=False)
    model.set_experts_implementation(implementation)
    assert model.config._experts_implementation == implementation
    check_logits(model, GOLDEN / "llada2")


@pytest.mark.parametrize(
    ("changes", "attributes"),
    [
        ({"rope_theta": 12345.0}, {"rope_theta": 12345.0}),
        ({"partial_rotary_factor": 0.25}, {"partial_rotary_factor": 0.25}),
        ({"n_group": 4, "topk_group": 2}, {"n_group": 4, "topk_group": 2}),
        ({"num_experts": 16, "num_shared_experts": 2}, {"n_routed_experts": 16, "n_shared_experts": 2}),
        ({"norm_topk_prob": False, "routed_scaling_factor": 1.5}, {"norm_topk_prob": False}),
    ],
)
def test_settings_of_rope_and_router_arrive(copy_of, changes, attributes):
    folder = copy_of("llada2")
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))
    config = load_config(str(folder))
    arrived = {**config.rope_parameters, **config.__dict__}
    assert {key: arrived[key] for key in attributes} == attributes
    saved = config.to_dict()
    assert {key: saved[key] for key in changes} == changes


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("llada2", "norm_head", True), ("llada", "alibi", True), ("wedlm", "attention_bias", True)],
)
def test_a_part_that_the_host_lacks_is_an_error(copy_of, name, key, value):
    folder = copy_of(name)
    values = json.loads((folder / "config.json").read_text()) | {key: value}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"load_config: .* {key} is {value}, and only {not value} "):
        load_config(str(folder))


def test_diffusion_gemma_is_refused_by_name(copy_of):
    folder = copy_of("sdar")
    (folder / "config.json").write_text('{"model_type": "diffusion_gemma"}')
    with pytest.raises(ValueError, match=r"load_config: .*'diffusion_gemma'.* not mask-based"):
        load_config(str(folder))


def test_code_beside_a_checkpoint_is_not_executed(copy_of, tmp_path):
    folder, witness = copy_of("sdar"), tmp_path / "executed"
    (folder / "modeling_sdar.py").write_text(f"open({str(witness)!r}, 'w')\nclass SDARConfig: ...\n")
    auto_map = {"AutoConfig": "modeling_sdar.SDARConfig", "AutoModelForCausalLM": "modeling_sdar.SDARConfig"}
    values = json.loads((folder / "config.json").read_text()) | {"auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(values))
    model = load_model(str(folder), trainable=False)
    model.save_pretrained(tmp_path / "saved")
    assert not witness.exists()
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def wedlm_mask(masked: torch.Tensor) -> torch.Tensor:
    """[2n, 2n] of `[x_0 | x_t]` in natural order, from the masked flags [n] of x_t"""
    n = len(masked)
    position = torch.arange(n)
    block = position // BLOCK_SIZE
    causal, earlier, same = position <= position[:, None], block < block[:, None], block == block[:, None]
    q, k = masked[:, None], masked
    within = same & ((~k & q) | ((k == q) & causal))
    return torch.cat([torch.cat([causal, torch.zeros(n, n, dtype=bool)], 1), torch.cat([earlier, within], 1)])


def test_wedlm_in_natural_order_equals_its_reordering():
    expected = load_file(GOLDEN / "wedlm" / "expected.safetensors")
    clean, masked = expected["contract_x0"], expected["contract_masked"].bool()
    ids = torch.cat([clean, clean.masked_fill(masked, 310)], 1)
    positions = torch.arange(clean.shape[1]).repeat(2)[None]
    model = load_model(str(GOLDEN / "wedlm"), trainable=False)
    for row in range(len(clean)):
        logits = logits_of(model, ids[row : row + 1], positions, wedlm_mask(masked[row]))
        torch.testing.assert_close(logits, expected["contract_logits"][row : row + 1], rtol=0, atol=2e-6)


HOSTED = {
    "vocab_size": 320,
    "hidden_size": 64,
    "head_dim": 16,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    # Of the mixture alone:
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
WEDLM = {"model_type": "wedlm", "architectures": ["WeDLMForCausalLM"]}


def write_in_makers_layout(folder: Path, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Write every expert by itself and every layer to a file, as SDAR-30B-A3B is published."""
    single = {}
    for name, weight in weights.items():
        stem, _, part = name.rpartition(".experts.")
        for expert, matrix in enumerate(weight if stem else ()):
            parts = {"gate": matrix[:32], "up": matrix[32:]} if part == "gate_up_proj" else {"down": matrix}
            for each, values in parts.items():
                single[f"{stem}.experts.{expert}.{each}_proj.weight"] = values.clone()
        if not stem:
            single[name] = weight
    files: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in single.items():
        layer = re.search(r"layers\.(\d+)", name)
        file = f"layer-{layer[1]}-ep-0-of-1.safetensors" if layer else "others.safetensors"
        files.setdefault(file, {})[name] = weight
    for file, held in files.items():
        save_file(held, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in files.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return single


@pytest.mark.parametrize(
    ("host", "named"),
    [
        (Qwen3MoeForCausalLM, {"model_type": "sdar_moe", "architectures": ["SDARMoeForCausalLM"]}),
        (Qwen2ForCausalLM, WEDLM),
        (Qwen2ForCausalLM, {**WEDLM, "qk_norm": False, "attention_bias": True}),
    ],
)
def test_a_family_without_golden_files_is_its_plain_host(host, named, tmp_path):
    plain = host(host.config_class.from_dict(dict(HOSTED))).eval()
    torch.manual_seed(0)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # biases and norms too
    original = write_in_makers_layout(tmp_path, plain.state_dict())
    (tmp_path / "config.json").write_text(json.dumps({**HOSTED, **named}))
    ids, positions, mask = torch.arange(48).view(2, 24), torch.arange(24)[None], torch.ones(24, 24)
    for folder in (tmp_path, tmp_path / "saved"):
        model = load_model(str(folder), trainable=False)
        assert torch.equal(logits_of(model, ids, positions, mask), logits_of(plain, ids, positions, mask))
        model.save_pretrained(tmp_path / "saved")
        check_weights_equal(tmp_path / "saved", original)
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert {key: saved[key] for key in (*named, "rope_theta")} == {**named, "rope_theta": 1e6}


def test_every_family_with_files_of_its_own_is_here():
    without = {"a2d-qwen2", "a2d-llama", "wedlm-qwen2", "sdar-moe"}
    names = {name for name, family in FAMILIES.items() if family.host} - without
    assert names == {name.replace("_", "-") for name in NAMES}
