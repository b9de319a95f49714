"""A network with its contract, and forward passes that stop before the head.

Legend: B sequences, S tokens of an input, N rows, d hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tide.batch import Head

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor
    from transformers import PreTrainedModel

    from tide.batch import Layout
    from tide.contract import Contract


@dataclass(frozen=True)
class DiffusionModel:
    """A block-diffusion model.

    Attributes:
        network: a causal language model of transformers; a layout's mask makes it bidirectional.
        contract: how it was trained to read a noised text.
    """

    network: PreTrainedModel
    contract: Contract


def run(network: PreTrainedModel, layout: Layout) -> Float[Tensor, "N d"]:
    """Run a network over a layout on its device and gather the hidden rows that count, before the head.

    Raises:
        ValueError: the network's attention is not sdpa.
    """
    attention = network.config._attn_implementation
    if attention != "sdpa":
        # Eager attention adds the booleans to the scores, flash attention ignores them: every token leaks.
        raise ValueError(
            f"run: a layout's mask needs sdpa attention; got {attention!r}. "
            "Load the model with attn_implementation='sdpa', or call model.set_attn_implementation('sdpa')."
        )
    output = network.base_model(
        input_ids=layout.token_ids,
        position_ids=layout.positions,
        # transformers passes a four-dimensional mask on as it is and adds no causal one.
        attention_mask=dense_mask(layout),
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state.flatten(0, 1)[layout.rows]
    return hidden


def dense_mask(layout: Layout) -> Bool[Tensor, "B 1 S S"]:
    """The layout's mask for SDPA, True where a query (row) attends to a key (column)."""
    num_sequences, length = layout.token_ids.shape
    token = torch.arange(length, device=layout.token_ids.device)
    sequence = torch.arange(num_sequences, device=token.device)[:, None, None, None]
    return layout.attends(sequence, token[:1], token[:, None], token)


def output_head(network: PreTrainedModel) -> Head:
    """The network's output embedding, tied or not, with the scale and softcap of its configuration."""
    head, config = network.get_output_embeddings(), network.config
    scale, softcap = getattr(config, "logit_scale", None), getattr(config, "final_logit_softcapping", None)
    return Head(head.weight, getattr(head, "bias", None), 1.0 if scale is None else scale, softcap)
