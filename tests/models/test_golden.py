"""Published files of every family, by tiny checkpoints with the logits of the makers' own code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

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
    [("llada2", "norm_head", True), ("llada", "alibi", True), ("wedlm", "qk_norm", False)],
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


def test_every_family_with_files_of_its_own_is_here():
    names = {name for name, family in FAMILIES.items() if family.host} - {"a2d-qwen2", "a2d-llama"}
    assert names == {name.replace("_", "-") for name in NAMES}
