"""What the attention of a network takes in place of its own mask, and which attention a network gets.

SDPA takes a layout's mask as a dense tensor, FlexAttention as blocks. FlashAttention takes no mask, only the
bounds of sequences, which is enough where no token sees another segment.

Legend: R rows of W tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention.flex_attention import create_block_mask
from transformers.utils import is_flash_attn_2_available

from tide.models.paths import first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Int
    from torch import Tensor
    from torch.nn.attention.flex_attention import BlockMask
    from transformers import PreTrainedConfig, PreTrainedModel

    from tide.batch import Layout, MaskFunction
    from tide.contract import Contract

    Mask = Tensor | BlockMask

FLASH = "flash_attention_2"
SMALLEST_FLEX_HEAD = 16  # columns, on a GPU


def set_attention(
    network: PreTrainedModel, contract: Contract, device: torch.device, name: str | None = None
) -> None:
    """Choose the attention of a loaded network.

    Args:
        contract: of the network.
        device: where it will run.
        name: in transformers. None: on a GPU, FlashAttention if it is installed and fits weights and
            contract, else FlexAttention; SDPA elsewhere.
    Raises:
        ValueError: the attention is not installed, or does not fit the model or its contract.
    """
    if name == FLASH and not contract.separate_segments:
        raise ValueError(
            f"set_attention: {FLASH} takes no mask, and this contract needs one; got {contract}. "
            "Set attn_implementation: flex_attention or sdpa."
        )
    name = name or _fastest(network, contract, device)
    try:
        network.set_attn_implementation(name)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"set_attention: {name} cannot be used here ({first_line(error)}). Set attn_implementation: sdpa."
        ) from error


def _fastest(network: PreTrainedModel, contract: Contract, device: torch.device) -> str:
    if device.type != "cuda":
        return "sdpa"
    half = network.dtype in (torch.float16, torch.bfloat16)
    if contract.separate_segments and half and network._supports_flash_attn and is_flash_attn_2_available():
        return FLASH
    config = network.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    fits_flex = head_dim >= SMALLEST_FLEX_HEAD and not getattr(config, "attention_dropout", 0.0)
    return "flex_attention" if fits_flex and network._supports_flex_attn else "sdpa"


def attention_arguments(config: PreTrainedConfig, layout: Layout) -> dict[str, Any]:
    """Arguments of a forward pass that make its attention the layout's.

    Raises:
        ValueError: the attention takes neither a mask nor bounds, some layers take no mask, or bounds are not
            enough for the layout.
    """
    attention = config._attn_implementation
    types = _types_of_layers(config)
    if attention == FLASH:
        return _bounds(layout)
    if attention not in MASKS:
        # Eager attention adds the booleans to the scores, flash attention ignores them: every token leaks.
        raise ValueError(
            f"run: a layout's mask needs sdpa or flex_attention; got {attention!r}. "
            "Load the model with attn_implementation='sdpa', or call model.set_attn_implementation('sdpa')."
        )
    # transformers passes a four-dimensional mask on as it is and adds no causal one.
    functions = {"full_attention": layout.attends}
    if "sliding_attention" in types:
        functions["sliding_attention"] = _within(layout, config.sliding_window)
    masks = {name: MASKS[attention](functions[name], layout.token_ids) for name in types}
    # By the type of layer if the network has several.
    return {"attention_mask": masks if len(masks) > 1 else masks.popitem()[1]}


def _types_of_layers(config: PreTrainedConfig) -> set[str]:
    """The kinds of attention that layers have, all of which have to be within a layout's rule."""
    window = getattr(config, "sliding_window", None)
    # Without a list, transformers slides all layers or none.
    default = "full_attention" if window is None else "sliding_attention"
    types = set(getattr(config, "layer_types", None) or [default])
    known = {"full_attention"} if window is None else {"full_attention", "sliding_attention"}
    if unknown := types - known:
        raise ValueError(
            "run: layers must be full or sliding attention, which take a layout's mask; "
            f"got {sorted(unknown)}. Choose another model."
        )
    return types


def _within(layout: Layout, window: int) -> MaskFunction:
    """The layout's mask function for tokens less than `window` positions apart."""
    attends, position = layout.attends, layout.positions

    def attends_within(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = (position[row, query] - position[row, key]).abs() < window
        return attends(row, head, query, key) & near

    return attends_within


def _bounds(layout: Layout) -> dict[str, Any]:
    if layout.starts is None:
        raise ValueError(
            f"run: {FLASH} takes no mask, and tokens of this layout see a part of another segment. "
            "Call model.set_attn_implementation('sdpa')."
        )
    width = layout.token_ids.shape[1]  # of a sequence at most
    return {
        "attention_mask": None,
        "is_causal": layout.causal,
        "cu_seq_lens_q": layout.starts,
        "cu_seq_lens_k": layout.starts,
        "max_length_q": width,
        "max_length_k": width,
    }


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
