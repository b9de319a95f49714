"""The contract of a loaded model: from its configuration, its tokenizer and its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tide.contract import AUTOREGRESSIVE, Contract
from tide.models.hosts import family_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

CONTRACT_NAMES = ("trained", "official", "ar")
# Fields that config.json records, by its keys.
RECORDED = {"mask_id": "mask_token_id", "block_size": "block_size", "in_block": "in_block", "shift": "shift"}
USUAL = {"in_block": "bidirectional", "shift": 0}
VALUE_NAMES = ("mask_id", "block_size", "in_block", "shift", "lowest_rate", "highest_rate")


def contract_of(
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    name: str = "trained",
    values: Mapping[str, Any] | None = None,
    block_size: int | None = None,
) -> Contract:
    """Say how a model reads a text.

    `values` count before what `name` says, that before what config.json records (`RECORDED`), and that before
    the family's values. The mask id is the tokenizer's where config.json records none.

    Args:
        config: as `load_config` reads it.
        tokenizer: the model's; needed where neither config nor family knows the mask id.
        name: "trained": as its makers trained it. "official": as the published TIDE code runs it. "ar": the
            clean text alone.
        values: by `VALUE_NAMES`; a block_size of 0 makes the whole text one block.
        block_size: of a student whose configuration is that of an autoregressive model, and records none.
    Raises:
        ValueError: an unknown name or value, no mask id, two of them, or one without an embedding; or a model
            that may be of either kind.
    """
    given, family, recorded = dict(values or {}), family_of(config), _recorded(config)
    if name not in CONTRACT_NAMES or not given.keys() <= set(VALUE_NAMES) or (name == "ar" and given):
        raise ValueError(
            f"contract_of: the name must be one of {', '.join(CONTRACT_NAMES)}, and values among "
            f"{', '.join(VALUE_NAMES)}, none for ar; got {name!r}, {given}. Correct them."
        )
    if name == "official" and not family.official:
        raise ValueError(
            f"contract_of: the published TIDE code runs no {config.model_type} model off its contract. "
            "Use 'trained'."
        )
    own = None if tokenizer is None else tokenizer.mask_token_id
    has_blocks = {"mask_id", "block_size"} <= recorded.keys() or "block_size" in given
    is_plain = not family.contract and not has_blocks and block_size is None
    if is_plain and name == "trained" and own is not None:
        raise ValueError(
            f"contract_of: a {config.model_type} model with a mask token (id {own}) may be autoregressive or "
            "a diffusion model, and config.json records no block_size. Give the contract 'ar', or a "
            "block_size."
        )
    if name == "ar" or is_plain:
        return AUTOREGRESSIVE
    known = {"block_size": block_size, **family.contract}
    if own is not None:
        known["mask_id"] = own
    known |= {**recorded, **(family.official if name == "official" else {}), **given}
    if "block_size" in given:
        known["block_size"] = given["block_size"] or None
    low, high = known.pop("rates", (0.0, 1.0))
    known["rates"] = known.pop("lowest_rate", low), known.pop("highest_rate", high)
    mask_id, width = known.get("mask_id"), config.get_text_config().vocab_size
    has_embedding = isinstance(mask_id, int) and 0 <= mask_id < width
    if not has_embedding or own not in (None, mask_id):
        raise ValueError(
            f"contract_of: the mask id must be known, below {width} (embeddings) and the "
            f"tokenizer's; got {mask_id}, the tokenizer's {own}. Give the model's own tokenizer, or record "
            "mask_token_id in its config.json."
        )
    return Contract(**known)


def record_contract(config: PretrainedConfig, contract: Contract) -> None:
    """Record a contract but for its rates, so that `save_pretrained` writes what `contract_of` reads back.

    What the family says anyway is left out, mask id and block size apart, which other programs read.
    """
    family = family_of(config).contract
    usual = {name: family.get(name, default) for name, default in USUAL.items()}
    for name, key in RECORDED.items():
        value = getattr(contract, name)
        if value is not None and (hasattr(config, key) or value != usual.get(name)):
            setattr(config, key, value)


def _recorded(config: PretrainedConfig) -> dict[str, Any]:
    values = {name: getattr(config, key, None) for name, key in RECORDED.items()}
    return {name: value for name, value in values.items() if value is not None}
