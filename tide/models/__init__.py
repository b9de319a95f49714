"""Models: loading, the block-diffusion mask, and forwards that stop before the head."""

from tide.models.block_attention import block_causal_mask, block_diffusion_mask
from tide.models.forward import hidden_rows, hidden_states, output_head
from tide.models.loading import (
    check_weights,
    load_config,
    load_model,
    load_tokenizer,
    mask_remedy,
    without_progress_bars,
)

__all__ = [
    "block_causal_mask",
    "block_diffusion_mask",
    "check_weights",
    "hidden_rows",
    "hidden_states",
    "load_config",
    "load_model",
    "load_tokenizer",
    "mask_remedy",
    "output_head",
    "without_progress_bars",
]
