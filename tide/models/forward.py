"""A network with its contract, and forward passes that stop before the head.

Legend: R rows of W tokens, N hidden rows that count, d hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.attention.flex_attention import create_block_mask

from tide.batch import Head

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from torch.nn.attention.flex_attention import BlockMask
    from transformers import PreTrainedConfig, PreTrainedModel

    from tide.batch import Layout, MaskFunction
    from tide.contract import Contract

    Mask = Tensor | BlockMask


@dataclass(frozen=True)
class DiffusionModel:
    """A model of any contract.

    Attributes:
        network: a causal language model of transformers; a layout's mask decides what its tokens see.
        contract: how it was trained to read a noised text.
    """

    network: PreTrainedModel
    contract: Contract


def run(network: PreTrainedModel, layout: Layout) -> Float[Tensor, "N d"]:
    """Run a network over a layout on its device and gather the hidden rows that count, before the head.

    Raises:
        ValueError: the network's attention, or some layer of it, takes no mask of a layout.
    """
    output = network.base_model(
        input_ids=layout.token_ids,
        position_ids=layout.positions,
        # transformers passes a four-dimensional mask on as it is and adds no causal one.
        attention_mask=_layer_masks(network.config.get_text_config(), layout),
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state.flatten(0, 1)[layout.rows]
    return hidden


def _layer_masks(config: PreTrainedConfig, layout: Layout) -> Mask | dict[str, Mask]:
    """The layout's mask, by the type of layer if the network has several."""
    attention, window = config._attn_implementation, getattr(config, "sliding_window", None)
    if attention not in MASKS:
        # Eager attention adds the booleans to the scores, flash attention ignores them: every token leaks.
        raise ValueError(
            f"run: a layout's mask needs sdpa or flex_attention; got {attention!r}. "
            "Load the model with attn_implementation='sdpa', or call model.set_attn_implementation('sdpa')."
        )
    # Without a list, transformers slides all layers or none.
    default = "full_attention" if window is None else "sliding_attention"
    types = set(getattr(config, "layer_types", None) or [default])
    functions = {"full_attention": layout.attends}
    if window is not None:
        functions["sliding_attention"] = _within(layout, window)
    if unknown := types.difference(functions):
        raise ValueError(
            "run: layers must be full or sliding attention, which take a layout's mask; "
            f"got {sorted(unknown)}. Choose another model."
        )
    masks = {name: MASKS[attention](functions[name], layout.token_ids) for name in types}
    return masks if len(masks) > 1 else masks.popitem()[1]


def _within(layout: Layout, window: int) -> MaskFunction:
    """The layout's mask function for tokens less than `window` positions apart."""
    attends, position = layout.attends, layout.positions

    def attends_within(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = (position[row, query] - position[row, key]).abs() < window
        return attends(row, head, query, key) & near

    return attends_within


def dense_mask(attends: MaskFunction, token_ids: Int[Tensor, "R W"]) -> Bool[Tensor, "R 1 W W"]:
    """The mask for SDPA, True where a query (row) attends to a key (column)."""
    num_rows, width = token_ids.shape
    token = torch.arange(width, device=token_ids.device)
    row = torch.arange(num_rows, device=token.device)[:, None, None, None]
    return attends(row, token[:1], token[:, None], token)


def block_mask(attends: MaskFunction, token_ids: Int[Tensor, "R W"]) -> BlockMask:
    """The mask for FlexAttention, which skips blocks without a pair that attends."""
    num_rows, width = token_ids.shape
    return create_block_mask(attends, num_rows, None, width, width, device=token_ids.device)


# By the name of an attention in transformers.
MASKS: dict[str, Callable[[MaskFunction, Tensor], Mask]] = {"sdpa": dense_mask, "flex_attention": block_mask}


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
