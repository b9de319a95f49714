"""Weight names of checkpoints against those of their hosts in transformers, read both ways.

A pattern is replaced wherever it stands in a name, so each holds enough to stand alone, on either side.
"""

from __future__ import annotations

from typing import Any

from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import (
    Concatenate,
    ConversionOps,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
)


class SplitHeads(ConversionOps):  # type: ignore[misc]
    """Split the rows of one projection into query, key and value heads; concatenate them to save."""

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        **context: Any,
    ) -> dict[str, Any]:
        ((weight,),) = input_dict.values()
        config = context["config"]
        query, key = config.num_attention_heads, config.num_key_value_heads
        head = len(weight) // (query + 2 * key)
        parts = weight.split([query * head, key * head, key * head])
        return {name: part.contiguous() for name, part in zip(target_patterns, parts, strict=True)}

    @property
    def reverse_op(self) -> Concatenate:
        return Concatenate(dim=0)


def _llada() -> list[Any]:
    names = {
        "model.transformer.wte": "model.embed_tokens",
        "model.transformer.ln_f": "model.norm",
        "model.transformer.ff_out": "lm_head",  # before the layers' ff_out
        "model.transformer.blocks": "model.layers",
        ".attn_norm": ".input_layernorm",
        ".ff_norm": ".post_attention_layernorm",
        ".q_proj": ".self_attn.q_proj",
        ".k_proj": ".self_attn.k_proj",
        ".v_proj": ".self_attn.v_proj",
        ".attn_out": ".self_attn.o_proj",
        ".ff_proj": ".mlp.gate_proj",
        ".up_proj": ".mlp.up_proj",
        ".ff_out": ".mlp.down_proj",
    }
    return [WeightRenaming(theirs, ours) for theirs, ours in names.items()]


def _llada2(*, merged_experts: bool) -> list[Any]:
    """Experts stand one by one, or merged as dFactory writes them: [experts, out, in]."""
    names = {
        "model.word_embeddings": "model.embed_tokens",
        "attention.query_layernorm": "self_attn.q_norm",
        "attention.key_layernorm": "self_attn.k_norm",
        "attention.dense": "self_attn.o_proj",
        "mlp.gate.expert_bias": "mlp.gate.e_score_correction_bias",
    }
    expert = "mlp.experts.{}_proj" if merged_experts else "mlp.experts.*.{}_proj.weight"
    stack = [] if merged_experts else [MergeModulelist(dim=0)]
    projections = [f"self_attn.{name}_proj.weight" for name in "qkv"]
    maps = [
        *(WeightRenaming(theirs, ours) for theirs, ours in names.items()),
        WeightConverter("attention.query_key_value.weight", projections, [SplitHeads()]),
        WeightConverter(
            [expert.format("gate"), expert.format("up")],
            "mlp.experts.gate_up_proj",
            [*stack, Concatenate(dim=1)],
        ),
    ]
    if stack:
        maps.append(WeightConverter(expert.format("down"), "mlp.experts.down_proj", stack))
    return maps


KEY_MAPS: dict[str, list[Any]] = {
    "llada": _llada(),
    "llada2_moe": _llada2(merged_experts=False),
    "llada21_moe": _llada2(merged_experts=False),
    "llada2_moe_veomni": _llada2(merged_experts=True),
    "sdar_moe": get_checkpoint_conversion_mapping("qwen3_moe"),
}
for _model_type, _key_map in KEY_MAPS.items():
    register_checkpoint_conversion_mapping(_model_type, _key_map, overwrite=True)
