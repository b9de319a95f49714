"""Families of models as data: how each is recognised, hosted by transformers, and trained.

No family needs its makers' code. A class of transformers hosts each; where weights have other names,
key_maps.py translates them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Family:
    """Models that share the layout of their files and a contract.

    Attributes:
        model_types, architectures: names in config.json. A model is saved under its own model type and the
            first architecture.
        marks: values in config.json, each of which tells it from a later family with the same names.
        host: class of transformers that computes the same; None: the causal language model of the model type.
        contract: fields of the contract that the makers trained at; empty for an autoregressive model.
            Without mask_id, the tokenizer knows it.
        official: fields that the published TIDE code runs a teacher at instead.
        mask_token: text of the mask token.
        adds_mask_token: True if the published tokenizer lacks the mask token; its id is the next free one.
        config_keys: keys of config.json to the names that the host gives them.
        config_defaults: what the host has to be told where config.json is silent.
        host_assumes: keys of config.json, each with the only value that the host computes.
        weight: of a masked token's cross-entropy in training, at mask rate p.
        end_fill: what the makers append to a text and train on.
        stops: tokens that end an answer.
        sampler: published settings.
        licence: of the published weights.
        student: True if it is meant to be trained here; every family can teach.
    """

    model_types: tuple[str, ...]
    architectures: tuple[str, ...] = ()
    marks: Mapping[str, Any] = field(default_factory=dict)
    host: str | None = None
    contract: Mapping[str, Any] = field(default_factory=dict)
    official: Mapping[str, Any] = field(default_factory=dict)
    mask_token: str | None = None
    adds_mask_token: bool = False
    config_keys: Mapping[str, str] = field(default_factory=dict)
    config_defaults: Mapping[str, Any] = field(default_factory=dict)
    host_assumes: Mapping[str, Any] = field(default_factory=dict)
    weight: str = ""
    end_fill: str = ""
    stops: tuple[str, ...] = ()
    sampler: Mapping[str, Any] = field(default_factory=dict)
    licence: str = "its own"
    student: bool = False


def _converted(base: str, architecture: str, host: str) -> Family:
    """An autoregressive model that dllm converted to block diffusion."""
    return Family(
        model_types=(f"a2d-{base}",),
        architectures=(architecture,),
        host=host,
        contract={"block_size": 32, "rates": (1e-3, 1.0)},
        mask_token="<|mask|>",
        adds_mask_token=True,
        weight="1/p",
        end_fill="end of turn, to a whole block",
        stops=("<|im_end|>",) if base != "llama" else ("<|eot_id|>",),
        sampler={"rule": "low_confidence", "block_size": 32, "temperature": 0.0},
        student=True,
    )


_WEDLM = Family(
    model_types=("wedlm",),
    architectures=("WeDLMForCausalLM",),
    marks={"qk_norm": True, "attention_bias": False},
    host="Qwen3ForCausalLM",
    contract={"mask_id": 151665, "block_size": 32, "in_block": "observed_first"},
    official={"in_block": "bidirectional"},
    mask_token="<|mask|>",
    adds_mask_token=True,
    host_assumes={"qk_norm": True, "attention_bias": False},
    weight="1/p, normalised",
    end_fill="8 × `<|im_end|>`",
    stops=("<|im_end|>", "<|endoftext|>"),
    sampler={"rule": "entropy", "window": 16, "threshold": 0.4, "temperature": 0.2},
    licence="Apache-2.0",
)
_SDAR = Family(
    model_types=("sdar",),
    architectures=("SDARForCausalLM",),
    host="Qwen3ForCausalLM",
    contract={"mask_id": 151669, "block_size": 4, "rates": (1e-3, 1.0)},
    mask_token="<|MASK|>",
    host_assumes={"qk_norm": True},
    weight="1/p",
    stops=("<|im_end|>", "<|endoftext|>"),
    sampler={"rule": "threshold", "block_size": 4, "threshold": 0.85, "temperature": 1.0},
    licence="Apache-2.0",
    student=True,
)

FAMILIES: Mapping[str, Family] = {
    "llada2": Family(
        model_types=("llada2_moe", "llada21_moe", "llada2_moe_veomni"),
        architectures=("LLaDA2MoeModelLM",),
        host="Glm4MoeForCausalLM",
        contract={"mask_id": 156895, "block_size": 32, "rates": (0.3, 0.8)},
        official={"block_size": None, "rates": (0.0, 1.0)},
        mask_token="<|mask|>",
        config_keys={"num_experts": "n_routed_experts", "num_shared_experts": "n_shared_experts"},
        config_defaults={"use_qk_norm": True, "num_mtp_layers": 0, "rope_theta": 600000},
        host_assumes={
            "norm_head": False,
            "score_function": "sigmoid",
            "use_bias": False,
            "use_qkv_bias": False,
        },
        weight="1",
        end_fill="`<|endoftext|>`, to the end of the row",
        stops=("<|endoftext|>", "<|role_end|>"),
        sampler={"rule": "threshold", "block_size": 32, "threshold": 0.95, "temperature": 0.0},
        licence="Apache-2.0",
    ),
    "wedlm": _WEDLM,
    # Of 7B. The makers' configuration takes these two values where config.json is silent.
    "wedlm-qwen2": replace(
        _WEDLM,
        marks={},
        host="Qwen2ForCausalLM",
        host_assumes={"qk_norm": False, "attention_bias": True},
    ),
    "a2d-qwen3": _converted("qwen3", "A2DQwen3LMHeadModel", "Qwen3ForCausalLM"),
    "a2d-qwen2": _converted("qwen2", "A2DQwen2LMHeadModel", "Qwen2ForCausalLM"),
    "a2d-llama": _converted("llama", "A2DLlamaLMHeadModel", "LlamaForCausalLM"),
    "sdar": _SDAR,
    "sdar-moe": replace(
        _SDAR,
        model_types=("sdar_moe",),
        architectures=("SDARMoeForCausalLM",),
        host="Qwen3MoeForCausalLM",
        student=False,
    ),
    "dream": Family(
        model_types=("Dream",),
        architectures=("DreamModel",),
        host="Qwen2ForCausalLM",
        contract={"mask_id": 151666, "block_size": None, "shift": 1},
        mask_token="<|mask|>",
        weight="CART",
        stops=("<|endoftext|>",),
        sampler={"rule": "entropy", "temperature": 0.1, "top_p": 0.9},
        licence="Apache-2.0",
    ),
    "llada": Family(
        model_types=("llada",),
        architectures=("LLaDAModelLM",),
        host="LlamaForCausalLM",
        contract={"mask_id": 126336, "block_size": None, "rates": (1e-3, 1.0)},
        mask_token="<|mdm_mask|>",
        config_keys={
            "d_model": "hidden_size",
            "mlp_hidden_size": "intermediate_size",
            "n_layers": "num_hidden_layers",
            "n_heads": "num_attention_heads",
            "n_kv_heads": "num_key_value_heads",
            "max_sequence_length": "max_position_embeddings",
            "embedding_size": "vocab_size",
            "weight_tying": "tie_word_embeddings",
            "init_std": "initializer_range",
        },
        host_assumes={
            "activation_type": "silu",
            "alibi": False,
            "attention_layer_norm": False,
            "block_type": "llama",
            "include_bias": False,
            "include_qkv_bias": False,
            "input_emb_norm": False,
            "layer_norm_type": "rms",
            "rope": True,
            "scale_logits": False,
        },
        weight="1/p",
        end_fill="`<|endoftext|>`, to the end of the row",
        stops=("<|endoftext|>", "<|eot_id|>"),
        sampler={"rule": "low_confidence", "block_size": 128, "temperature": 0.0},
        licence="MIT",
    ),
    # And every other causal language model of transformers.
    "autoregressive": Family(model_types=("qwen3", "qwen2", "llama", "gemma3_text"), student=True),
}

REFUSED: Mapping[str, str] = {
    "diffusion_gemma": "it is not mask-based: it denoises random tokens, and has no mask token to distil at",
}

# Tokenizer classes that transformers lacks, with the model type whose tokenizer reads their files.
TOKENIZER_TYPES: Mapping[str, str] = {"DreamTokenizer": "qwen2"}


def find_family(values: Mapping[str, Any]) -> str | None:
    """Name the family of the values of a config.json; None if there is none of its own."""
    architectures = set(values.get("architectures") or ())
    for name, family in FAMILIES.items():
        is_named = values.get("model_type") in family.model_types or architectures & set(family.architectures)
        is_marked = any(values.get(key) == value for key, value in family.marks.items())
        if is_named and (is_marked or not family.marks):
            return name
    return None
