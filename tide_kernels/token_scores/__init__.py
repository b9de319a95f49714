"""Scores by which a sampler ranks positions, from logits."""

from tide_kernels.token_scores.op import token_scores
from tide_kernels.token_scores.reference import TokenScores

__all__ = ["TokenScores", "token_scores"]
