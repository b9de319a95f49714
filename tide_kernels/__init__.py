"""Ops over the vocabulary axis: divergences, token log-probabilities, token scores, chunk likelihoods.

One row is one token position. Ops take logits [N, V], or hidden rows and the head that makes logits of them
(`linear_*`), and return per-row fp32 values in nats. Every op has a definition in plain torch
(`backend="reference"`) that its tests measure it against; those over logits have Triton kernels. The package
imports torch, triton where kernels run, and nothing of `tide`.
"""

from tide_kernels._shared.checks import check_tensor, scalar_tensor
from tide_kernels.chunk_likelihood import chunk_likelihood
from tide_kernels.chunk_likelihood.reference import log1mexp
from tide_kernels.divergence import interpolated_kl, reverse_kl
from tide_kernels.linear_divergence import LinearDivergence, linear_interpolated_kl, linear_reverse_kl
from tide_kernels.linear_token_logprob import linear_token_logprob
from tide_kernels.token_logprob import token_logprob
from tide_kernels.token_scores import TokenScores, token_scores

__all__ = [
    "LinearDivergence",
    "TokenScores",
    "check_tensor",
    "chunk_likelihood",
    "interpolated_kl",
    "linear_interpolated_kl",
    "linear_reverse_kl",
    "linear_token_logprob",
    "log1mexp",
    "reverse_kl",
    "scalar_tensor",
    "token_logprob",
    "token_scores",
]
