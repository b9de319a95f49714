"""Contracts: of each family, as config.json records them, and as a recipe sets them."""

from __future__ import annotations

import json

import pytest
from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from tests.tiny import make_model, make_tokenizer
from tide.contract import AUTOREGRESSIVE, Contract
from tide.models import contract_of, load_config, load_model, record_contract

WIDE = 160000


@pytest.fixture
def read(tmp_path):
    """The configuration that `load_config` makes of the values."""

    def read(model_type, **values):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, **values}))
        return load_config(str(tmp_path))

    return read


@pytest.mark.parametrize(
    ("model_type", "contract"),
    [
        ("llada2_moe", Contract(156895, 32, rates=(0.3, 0.8))),
        ("llada21_moe", Contract(156895, 32, rates=(0.3, 0.8))),
        ("wedlm", Contract(151665, 32, "observed_first")),
        ("sdar", Contract(151669, 4, rates=(1e-3, 1.0))),
        ("sdar_moe", Contract(151669, 4, rates=(1e-3, 1.0))),
        ("Dream", Contract(151666, None, shift=1)),
        ("llada", Contract(126336, None, rates=(1e-3, 1.0))),
        ("qwen3", AUTOREGRESSIVE),
        ("qwen2", AUTOREGRESSIVE),
        ("llama", AUTOREGRESSIVE),
        ("gemma3_text", AUTOREGRESSIVE),
        ("gpt2", AUTOREGRESSIVE),
    ],
)
def test_a_family_has_the_contract_that_it_was_trained_at(read, model_type, contract):
    assert contract_of(read(model_type, vocab_size=WIDE)) == contract


@pytest.mark.parametrize("base", ["qwen3", "qwen2", "llama"])
def test_a_converted_model_has_the_mask_token_of_its_tokenizer(read, base):
    config = read(f"a2d-{base}", vocab_size=300)
    assert contract_of(config, make_tokenizer(300)) == Contract(1, 32, rates=(1e-3, 1.0))
    with pytest.raises(ValueError, match=r"contract_of: the mask id must be known.*got None"):
        contract_of(config)


@pytest.mark.parametrize(
    ("model_type", "host"),
    [
        ("qwen3", Qwen3Config),
        ("llama", LlamaConfig),
        ("gemma3_text", Gemma3TextConfig),
        ("gpt2", GPT2Config),
        ("a2d-qwen2", Qwen2Config),
        ("sdar", Qwen3Config),
        ("sdar_moe", Qwen3MoeConfig),
        ("wedlm", Qwen2Config),  # the makers' defaults
    ],
)
def test_a_configuration_is_its_hosts(read, model_type, host):
    config = read(model_type)
    assert isinstance(config, host) and config.model_type == model_type


def test_an_architecture_names_a_family_too(read):
    config = read("qwen3", architectures=["SDARForCausalLM"], vocab_size=WIDE)
    assert config.model_type == "sdar" and contract_of(config).block_size == 4


def test_config_json_tells_the_two_networks_of_wedlm_apart(read):
    large = read("wedlm", vocab_size=WIDE, qk_norm=True, attention_bias=False)
    small = read("wedlm", vocab_size=WIDE, qk_norm=False, attention_bias=True)
    assert isinstance(large, Qwen3Config) and isinstance(small, Qwen2Config)
    assert contract_of(large) == contract_of(small) == Contract(151665, 32, "observed_first")
    with pytest.raises(ValueError, match=r"qk_norm is False, and only True .* wedlm models"):
        read("wedlm", qk_norm=False, attention_bias=False)


def test_what_config_json_records_counts_before_the_family(read):
    config = read("sdar", vocab_size=300, mask_token_id=7, block_size=16)
    assert contract_of(config) == Contract(7, 16, rates=(1e-3, 1.0))


def test_a_host_that_records_both_is_a_block_diffusion_model(read):
    both = {"mask_token_id": 7, "block_size": 16}
    assert contract_of(read("llama", vocab_size=300, **both)) == Contract(7, 16)
    for key, value in both.items():
        assert contract_of(read("llama", vocab_size=300, **{key: value})) == AUTOREGRESSIVE


def test_a_student_of_a_plain_host_gets_the_block_size_of_the_recipe(read):
    config = read("qwen3", vocab_size=300)
    assert contract_of(config, make_tokenizer(300), block_size=16) == Contract(1, 16)
    with pytest.raises(ValueError, match=r"contract_of: .* may be autoregressive or .* the contract 'ar'"):
        contract_of(config, make_tokenizer(300))
    recorded = read("qwen3", vocab_size=300, mask_token_id=1, block_size=8)
    assert contract_of(recorded, make_tokenizer(300), block_size=16) == Contract(1, 8)


def test_the_official_use_of_both_teachers_goes_by_name(read):
    llada2, wedlm = read("llada2_moe", vocab_size=WIDE, block_size=32), read("wedlm", vocab_size=WIDE)
    assert contract_of(llada2, name="official") == Contract(156895, None)
    assert contract_of(wedlm, name="official") == Contract(151665, 32)
    with pytest.raises(ValueError, match=r"contract_of: .* runs no sdar model.*Use 'trained'"):
        contract_of(read("sdar", vocab_size=WIDE), name="official")


def test_fields_replace_those_of_the_family(read):
    config = read("wedlm", vocab_size=300)
    values = {"mask_id": 9, "block_size": 0, "in_block": "bidirectional", "shift": 1, "lowest_rate": 0.1}
    assert contract_of(config, make_tokenizer(300), values={**values, "mask_id": 1}) == Contract(
        1, None, "bidirectional", 1, (0.1, 1.0)
    )
    assert contract_of(config, values=values).mask_id == 9
    llada2 = read("llada2_moe", vocab_size=WIDE)
    assert contract_of(llada2, values={"highest_rate": 0.9}).rates == (0.3, 0.9)
    assert contract_of(llada2, name="official", values={"block_size": 16}) == Contract(156895, 16)
    plain = read("qwen3", vocab_size=300)
    assert contract_of(plain, make_tokenizer(300), name="ar") == contract_of(plain) == AUTOREGRESSIVE
    assert contract_of(plain, make_tokenizer(300), values={"block_size": 8}) == Contract(1, 8)


@pytest.mark.parametrize(
    "given", [{"name": "offical"}, {"values": {"blocksize": 4}}, {"name": "ar", "values": {"shift": 1}}]
)
def test_an_unknown_name_or_value_is_an_error(read, given):
    with pytest.raises(ValueError, match=r"contract_of: the name must be one of trained, official, ar, and "):
        contract_of(read("sdar", vocab_size=WIDE), **given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"in_block": "causal"}, "Contract: in_block must be one of bidirectional, observed_first.*'causal'"),
        ({"shift": 2}, "Contract: .* shift 0 or 1; got 'bidirectional', 2"),
        ({"mask_id": -1}, "contract_of: the mask id must be known.* got -1"),
        ({"mask_id": "<|MASK|>"}, "contract_of: the mask id must be known.* got <|MASK|>"),
    ],
)
def test_a_value_that_no_layout_reads_is_an_error(read, values, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        contract_of(read("sdar", vocab_size=WIDE), values=values)


@pytest.mark.parametrize("mask_id", [0, 300])
def test_a_mask_id_of_another_token_or_without_embedding_is_an_error(read, mask_id):
    config = read("sdar", vocab_size=300, mask_token_id=mask_id)
    with pytest.raises(ValueError, match=rf"contract_of: .* got {mask_id}, the tokenizer's 1"):
        contract_of(config, make_tokenizer(300))


def test_a_recorded_contract_is_read_back(tmp_path):
    make_model(300).save_pretrained(tmp_path / "base")
    model = load_model(str(tmp_path / "base"), trainable=True)
    contract = contract_of(model.config, make_tokenizer(300), block_size=16)
    record_contract(model.config, contract)
    model.save_pretrained(tmp_path / "student")
    assert contract_of(load_config(str(tmp_path / "student"))) == contract == Contract(1, 16)


@pytest.mark.parametrize("values", [{}, {"in_block": "observed_first"}, {"shift": 1}])
@pytest.mark.parametrize("model_type", ["qwen3", "wedlm"])
def test_how_a_student_reads_is_recorded_too(read, model_type, values):
    config = read(model_type, vocab_size=300)
    tokenizer = make_tokenizer(300)
    for given in (values, {"in_block": "bidirectional", "shift": 0}):  # the second replaces what is recorded
        contract = contract_of(config, tokenizer, values={"mask_id": 1, "block_size": 16, **given})
        record_contract(config, contract)
        assert contract_of(read(**config.to_dict()), tokenizer) == contract
    plain = read("qwen3", vocab_size=300)
    record_contract(plain, Contract(1, 16))
    assert not {"in_block", "shift"} & plain.to_dict().keys()


def test_the_embeddings_of_a_model_with_images_are_those_of_its_text(read):
    config = read("gemma3", text_config={"vocab_size": 300})
    assert contract_of(config) == AUTOREGRESSIVE
    assert contract_of(config, values={"mask_id": 299, "block_size": 8}) == Contract(299, 8)
    with pytest.raises(ValueError, match=r"contract_of: .* below 300 \(embeddings\).* got 300"):
        contract_of(config, values={"mask_id": 300, "block_size": 8})
