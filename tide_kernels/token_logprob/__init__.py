"""Log-probability of one token per row, over logits."""

from tide_kernels.token_logprob.op import token_logprob

__all__ = ["token_logprob"]
