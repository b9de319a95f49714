"""Log-probability of one token per row, from hidden states and an output head."""

from tide_kernels.linear_token_logprob.op import linear_token_logprob

__all__ = ["linear_token_logprob"]
