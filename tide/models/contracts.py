"""The contract of a loaded model: from its configuration, its tokenizer and its family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from tide.contract import AUTOREGRESSIVE, Contract
from tide.models.hosts import family_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

CONTRACT_NAMES = ("trained", "official", "ar")


def contract_of(
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    contract: str | Mapping[str, Any] = "trained",
    block_size: int | None = None,
) -> Contract:
    """Say how a model reads a text.

    What `contract` names counts before what config.json records (mask_token_id, block_size), and that before
    the family's values. The mask id is the tokenizer's where config.json records none.

    Args:
        config: as `load_config` reads it.
        tokenizer: the model's; needed where neither config nor family knows the mask id.
        contract: "trained": as its makers trained it. "official": as the published TIDE code runs it.
            "ar": the clean text alone. Or fields of the contract that replace those of "trained".
        block_size: of a student whose configuration is that of an autoregressive model, and records none.
    Raises:
        ValueError: an unknown name or field, no mask id, two of them, or one without an embedding.
    """
    name = contract if isinstance(contract, str) else "fields"
    given = contract if isinstance(contract, Mapping) else {}
    family, known_fields = family_of(config), {field.name for field in fields(Contract)}
    if name not in (*CONTRACT_NAMES, "fields") or not given.keys() <= known_fields:
        raise ValueError(
            f"contract_of: contract must be one of {', '.join(CONTRACT_NAMES)}, or fields among "
            f"{', '.join(sorted(known_fields))}; got {contract!r}. Correct the name."
        )
    if name == "official" and not (given := family.official):
        raise ValueError(
            f"contract_of: the published TIDE code runs no {config.model_type} model off its contract. "
            "Use 'trained'."
        )
    recorded = _recorded(config)
    is_plain = not family.contract and len(recorded) < 2 and block_size is None
    if name == "ar" or (is_plain and not given.keys() & {"mask_id", "block_size"}):
        return replace(AUTOREGRESSIVE, **given)
    own = None if tokenizer is None else tokenizer.mask_token_id
    values = {"block_size": block_size, **family.contract}
    if own is not None:
        values["mask_id"] = own
    values |= recorded
    values |= given
    mask_id = values.get("mask_id")
    if mask_id is None or mask_id >= config.vocab_size or (own not in (None, mask_id)):
        raise ValueError(
            f"contract_of: the mask id must be known, below {config.vocab_size} (embeddings) and the "
            f"tokenizer's; got {mask_id}, the tokenizer's {own}. Give the model's own tokenizer, or record "
            "mask_token_id in its config.json."
        )
    return Contract(**values)


def record_contract(config: PretrainedConfig, contract: Contract) -> None:
    """Record mask id and block size, so that `save_pretrained` writes what `contract_of` reads back."""
    for key, value in (("mask_token_id", contract.mask_id), ("block_size", contract.block_size)):
        if value is not None:
            setattr(config, key, value)


def _recorded(config: PretrainedConfig) -> dict[str, int]:
    values = {
        "mask_id": getattr(config, "mask_token_id", None),
        "block_size": getattr(config, "block_size", None),
    }
    return {name: value for name, value in values.items() if value is not None}
