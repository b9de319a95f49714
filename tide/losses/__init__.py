"""Distillation losses for diffusion language models.

Functions of logits, of hidden states and output heads (``linear_*``), or of token log-probabilities (chunks);
each also as an ``nn.Module`` that fixes its options (``TIDALLoss``).
The vocabulary axis is reduced in ``tide_kernels``; this package broadcasts, weights and averages per-row
numbers.
"""

from __future__ import annotations

from tide.losses.chunk_likelihood import calm_loss, reverse_calm_loss, tidal_chunk_loss
from tide.losses.cross_entropy import cross_entropy_loss, linear_token_log_probs, token_log_probs
from tide.losses.divergences import (
    DivergenceLoss,
    forward_kl_loss,
    linear_forward_kl_loss,
    linear_reverse_kl_loss,
    linear_tidal_loss,
    reverse_kl_loss,
    tidal_loss,
)
from tide.losses.modules import (
    CALMLoss,
    CrossEntropyLoss,
    ForwardKLLoss,
    LinearForwardKLLoss,
    LinearReverseKLLoss,
    LinearTIDALLoss,
    ReverseCALMLoss,
    ReverseKLLoss,
    TIDALChunkLoss,
    TIDALLoss,
)
from tide.losses.options import HiddenOptions
from tide.losses.reductions import row_weights
from tide.losses.schedules import lambda_schedule, timestep_weight

__all__ = [
    "CALMLoss",
    "CrossEntropyLoss",
    "DivergenceLoss",
    "ForwardKLLoss",
    "HiddenOptions",
    "LinearForwardKLLoss",
    "LinearReverseKLLoss",
    "LinearTIDALLoss",
    "ReverseCALMLoss",
    "ReverseKLLoss",
    "TIDALChunkLoss",
    "TIDALLoss",
    "calm_loss",
    "cross_entropy_loss",
    "forward_kl_loss",
    "lambda_schedule",
    "linear_forward_kl_loss",
    "linear_reverse_kl_loss",
    "linear_tidal_loss",
    "linear_token_log_probs",
    "reverse_calm_loss",
    "reverse_kl_loss",
    "row_weights",
    "tidal_chunk_loss",
    "tidal_loss",
    "timestep_weight",
    "token_log_probs",
]
