"""Checkpoints of the paper's models with their vocabularies: two random layers of width 32."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny import make_tokenizer
from tide.models.hosts import host_class, host_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
ROLES = (
    "{% for message in messages %}<role>{{ 'HUMAN' if message.role == 'user' else message.role | upper }}"
    "</role>{{ message.content }}<|role_end|>{% endfor %}"
    "{% if add_generation_prompt %}<role>ASSISTANT</role>{% endif %}"
)
QWEN = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
LLADA2 = {"<|endoftext|>": 156892, "<|role_end|>": 156894, "<|mask|>": 156895}
DENSE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
}
MIXTURE = {
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "num_shared_experts": 1,
    "n_group": 8,
    "topk_group": 4,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "partial_rotary_factor": 0.5,
    "norm_topk_prob": True,
    "score_function": "sigmoid",
}
QWEN_WIDTH, LLADA2_WIDTH = 151936, 157184


def wide_tokenizer(
    specials: Mapping[str, int], *, num_entries: int, words: bool, **roles: str
) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 300 or 340 live entries, special tokens at their published ids, idle ones between."""
    small = json.loads(make_tokenizer(300 if words else 340, words=words).backend_tokenizer.to_str())["model"]
    vocab = {token: at for at, token in enumerate(t for t in small["vocab"] if not t.startswith("<|"))}
    first = min(specials.values())
    vocab |= {f"<idle {at}>": at for at in range(len(vocab), first)}
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(merge) for merge in small["merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    tokenizer.decoder = decoders.ByteLevel()
    at_id = {token_id: token for token, token_id in specials.items()}
    tokenizer.add_tokens(
        [AddedToken(at_id.get(at, f"<idle {at}>"), special=at in at_id) for at in range(first, num_entries)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def write_checkpoint(
    folder: Path, values: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> Path:
    """A random model of a config.json, as its makers lay it out, with its tokenizer."""
    config = host_config(values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        host_class(config)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_student(folder: Path) -> Path:
    """The student as published: its tokenizer lacks the mask token, which is added as entry 151669."""
    values = {**DENSE, "model_type": "a2d-qwen3", "vocab_size": QWEN_WIDTH, "tie_word_embeddings": True}
    tokenizer = wide_tokenizer(QWEN, num_entries=151669, words=True, eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    return write_checkpoint(folder, values, tokenizer, seed=1)


def write_wedlm(folder: Path) -> Path:
    """WeDLM, whose vocabulary is the student's up to its mask token."""
    values = {**DENSE, "model_type": "wedlm", "vocab_size": QWEN_WIDTH, "tie_word_embeddings": False}
    values |= {"qk_norm": True, "attention_bias": False}
    tokenizer = wide_tokenizer(QWEN, num_entries=151665, words=True, eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    return write_checkpoint(folder, {**values, "mask_token_id": 151665}, tokenizer, seed=2)


def write_llada2(folder: Path) -> Path:
    """LLaDA2: a mixture of experts, another tokenizer, role tags as plain text."""
    values = {**DENSE, **MIXTURE, "model_type": "llada2_moe", "vocab_size": LLADA2_WIDTH}
    tokenizer = wide_tokenizer(LLADA2, num_entries=156896, words=False, eos_token="<|endoftext|>")
    tokenizer.chat_template = ROLES
    return write_checkpoint(folder, {**values, "rope_theta": 6e5}, tokenizer, seed=3)
