"""Models: loading, and forward passes that stop before the head."""

from tide.models.forward import DiffusionModel, output_head, run
from tide.models.loading import (
    check_weights,
    load_config,
    load_model,
    load_tokenizer,
    mask_remedy,
    without_progress_bars,
)

__all__ = [
    "DiffusionModel",
    "check_weights",
    "load_config",
    "load_model",
    "load_tokenizer",
    "mask_remedy",
    "output_head",
    "run",
    "without_progress_bars",
]
