"""What a sampler ranks positions by, over logits."""

from tide_kernels.token_scores.function import token_scores
from tide_kernels.token_scores.reference import TokenScores

__all__ = ["TokenScores", "token_scores"]
