"""A network with its contract, and forward passes that stop before the head.

Legend: N hidden rows that count, d hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tide.batch import Head
from tide.models.attention import attention_arguments

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedModel

    from tide.batch import Layout
    from tide.contract import Contract


@dataclass(frozen=True)
class DiffusionModel:
    """A model of any contract.

    Attributes:
        network: a causal language model of transformers; a layout's mask decides what its tokens see.
        contract: how it was trained to read a noised text.
        head: a copy of its output head, where losses run on another device than the network.
    """

    network: PreTrainedModel
    contract: Contract
    head: Head | None = None


def run(network: PreTrainedModel, layout: Layout) -> Float[Tensor, "N d"]:
    """Run a network over a layout on its device and gather the hidden rows that count, before the head.

    Raises:
        ValueError: the network's attention, or some layer of it, cannot be made the layout's.
    """
    output = network.base_model(
        input_ids=layout.token_ids,
        position_ids=layout.positions,
        use_cache=False,
        **attention_arguments(network.config.get_text_config(), layout),
    )
    hidden: Tensor = output.last_hidden_state.flatten(0, 1)[layout.rows]
    return hidden


def output_head(network: PreTrainedModel) -> Head:
    """The network's output embedding, tied or not, with the scale and softcap of its configuration."""
    head, config = network.get_output_embeddings(), network.config
    scale, softcap = getattr(config, "logit_scale", None), getattr(config, "final_logit_softcapping", None)
    return Head(head.weight, getattr(head, "bias", None), 1.0 if scale is None else scale, softcap)


@torch.no_grad()
def check_head(network: PreTrainedModel) -> None:
    """Compare the logits of `output_head` with the network's own, on one token.

    Raises:
        ValueError: they differ: the network computes more between hidden rows and logits.
    """
    token = torch.zeros((1, 1), dtype=torch.long, device=network.device)
    logits = network(input_ids=token, use_cache=False).logits
    hidden = network.base_model(input_ids=token, use_cache=False).last_hidden_state
    difference, size = (output_head(network).logits(hidden) - logits).norm(), logits.norm()
    if difference > size * torch.finfo(hidden.dtype).eps ** 0.5:
        raise ValueError(
            f"load_model: {network.config.model_type} models compute more than a product with the output "
            "embedding, its bias, logit_scale and final_logit_softcapping, which losses would leave out. "
            "Choose another model."
        )
