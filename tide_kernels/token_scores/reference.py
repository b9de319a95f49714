"""Definition of token_scores in plain torch, exact in fp64."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class TokenScores(NamedTuple):
    """The most probable token per row and three measures of its certainty."""

    token_ids: Int[Tensor, " N"]  # int64; the lowest id in a tie
    log_p: Float[Tensor, " N"]  # log-probability of that token, nats
    entropy: Float[Tensor, " N"]  # nats
    margin: Float[Tensor, " N"]  # its probability minus the runner-up's; 1 for a single column


def token_scores_reference(logits: Float[Tensor, "N V"]) -> TokenScores:
    """Argmax, its log-probability, entropy and top-two margin per row, in the dtype of the logits."""
    log_p = torch.log_softmax(logits, dim=-1)
    p = log_p.exp()
    entropy = -torch.where(p != 0, p * log_p, 0.0).sum(-1)
    top = p.topk(min(2, p.shape[-1]), dim=-1).values
    margin = top[:, 0] - (top[:, 1] if top.shape[-1] > 1 else 0.0)
    token_ids = logits.argmax(-1)
    return TokenScores(token_ids, log_p.gather(-1, token_ids[:, None]).squeeze(-1), entropy, margin)
