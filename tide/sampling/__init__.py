"""Sampling: block-diffusion generation."""

from tide.sampling.block_sampler import generate
from tide.sampling.unmasking import most_confident, tokens_per_step

__all__ = ["generate", "most_confident", "tokens_per_step"]
