"""Head-free forwards: hidden states of exactly the rows that a loss reads, and the head that would turn them
into logits.

Legend: B sequences, L tokens, K views, N rows, d hidden size, V vocabulary entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide.batch import Head
from tide.models.block_attention import block_causal_mask, block_diffusion_mask

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from transformers import PreTrainedModel

    from tide.batch import NoisedTokens


def output_head(model: PreTrainedModel) -> Head:
    """The model's output embedding, tied or not."""
    head = model.get_output_embeddings()
    return Head(head.weight, getattr(head, "bias", None))


def hidden_rows(model: PreTrainedModel, noised: NoisedTokens, *, block_size: int) -> Float[Tensor, "N d"]:
    """Runs `[x_t^1 | ... | x_t^K | x_0]` under the block-diffusion mask and gathers the rows whose outputs
    count.

    Row i comes from view `noised.row_views[i]`: CompDemo's two passes are merged as hidden rows, never as
    logits.

    Args:
        model: a causal language model of transformers; it is made bidirectional by the mask alone.
        noised: tokens and views, on the model's device.
        block_size: tokens per diffusion block.
    Returns:
        [N, d] in the model's compute dtype.
    Raises:
        ValueError: the model's attention is not sdpa, the one that reads a boolean mask.
    """
    _, num_views, length = noised.views.shape
    input_ids = torch.cat([noised.views.flatten(1), noised.token_ids], dim=1)
    positions = torch.arange(length, device=input_ids.device).repeat(num_views + 1)
    mask = block_diffusion_mask(noised.valid, block_size=block_size, num_views=num_views)
    hidden = _backbone(model, input_ids, positions, mask)
    sequence, position = noised.rows // length, noised.rows % length
    return hidden.flatten(0, 1)[sequence * hidden.shape[1] + noised.row_views * length + position]


def hidden_states(
    model: PreTrainedModel, token_ids: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"], *, block_size: int
) -> Float[Tensor, "B L d"]:
    """Hidden states of one text under the block-causal mask (decoding: finished blocks clean, the last one
    noised).

    Args:
        model, block_size: as for `hidden_rows`.
        token_ids: [B, L]; texts start at position 0.
        valid: [B, L] bool; False on what is not yet, or not, part of the text.
    Returns:
        [B, L, d].
    Raises:
        ValueError: as for `hidden_rows`.
    """
    positions = torch.arange(token_ids.shape[1], device=token_ids.device)
    return _backbone(model, token_ids, positions, block_causal_mask(valid, block_size=block_size))


def _backbone(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "B S"],
    positions: Int[Tensor, "..."],
    mask: Bool[Tensor, "B 1 S S"],
) -> Float[Tensor, "B S d"]:
    attention = model.config._attn_implementation
    if attention != "sdpa":
        # Eager attention adds the booleans to the scores; flash attention leaves them out. Every token leaks.
        raise ValueError(
            f"hidden_rows, hidden_states: the block mask needs attention by sdpa; got {attention!r}. "
            "Load the model with attn_implementation='sdpa', or call model.set_attn_implementation('sdpa')."
        )
    # A four-dimensional mask reaches the attention as it is: transformers adds no causal triangle to it.
    output = model.base_model(
        input_ids=input_ids,
        position_ids=positions.expand(input_ids.shape[0], -1),
        attention_mask=mask,
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden
