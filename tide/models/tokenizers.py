"""Tokenizers from a folder, a GGUF file or the hub, with the mask token of their family."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from tide.models.catalog import TOKENIZER_TYPES
from tide.models.hosts import family_of
from tide.models.loading import load_config
from tide.models.paths import location, reading

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def load_tokenizer(
    path: str, *, needs_mask: bool = True, config: PretrainedConfig | None = None
) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer with a mask token, which the model's family names where the files do not.

    BPE dropout is turned off, with a warning: texts have one tokenization, as at inference.

    Args:
        path: a folder, a GGUF file, or the id of a repository on the hub.
        needs_mask: False accepts a tokenizer without a mask token, as autoregressive models have.
        config: the model's, as `load_config` reads it; by default the one beside the tokenizer, if any, where
            a mask token is needed.
    Raises:
        ValueError: no readable tokenizer at `path`, a slow one, or no mask token apart from eos, pad and bos.
    """
    with reading("load_tokenizer", "tokenizer", path, "with tokenizer.json"):
        folder = Path(path)
        if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
            # transformers would make an empty tokenizer of the model's type.
            raise FileNotFoundError("no such file")
        where, options = location(path)
        named = get_tokenizer_config(where).get("tokenizer_class")
        # Left out, trust_remote_code has transformers ask on stdin whether to run code that the files name.
        tokenizer = AutoTokenizer.from_pretrained(
            where, tokenizer_type=TOKENIZER_TYPES.get(named), trust_remote_code=False, **options
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"load_tokenizer: {path!r} holds a slow tokenizer ({type(tokenizer).__name__}); alignment needs "
            "a fast one. Load it with use_fast=True and save it with tokenizer.save_pretrained."
        )
    _drop_no_merges(tokenizer, path)
    config = _config_beside(path) if needs_mask and config is None else config
    if tokenizer.mask_token_id is None and config is not None:
        _name_mask_token(tokenizer, config)
    if not needs_mask:
        return tokenizer
    if tokenizer.mask_token_id is None:
        raise ValueError(
            f"load_tokenizer: the tokenizer at {path!r} has no mask token, which diffusion needs. "
            f"Give it one: {mask_remedy(tokenizer)}."
        )
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    same = [role for role, token_id in ids.items() if token_id == tokenizer.mask_token_id]
    if same:
        raise ValueError(
            f"load_tokenizer: the tokenizer at {path!r} has one token ({tokenizer.mask_token}) as mask and "
            f"{' and '.join(same)}. Give the mask a token of its own."
        )
    return tokenizer


def _drop_no_merges(tokenizer: PreTrainedTokenizerFast, path: str) -> None:
    """Turn off BPE dropout, which tokenizes the same text otherwise each time; at 1 it is no chance."""
    model = tokenizer.backend_tokenizer.model
    if 0 < (getattr(model, "dropout", None) or 0) < 1:
        warnings.warn(
            f"load_tokenizer: the tokenizer at {path!r} drops merges at random (BPE dropout "
            f"{model.dropout:.2g}), so that no two preparations agree. It is loaded without; set "
            "model.dropout to null in its tokenizer.json.",
            stacklevel=3,
        )
        model.dropout = None


def _config_beside(path: str) -> PretrainedConfig | None:
    try:
        return load_config(path)
    except ValueError:
        return None


def _name_mask_token(tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig) -> None:
    """Give a tokenizer the mask token that the configuration records, or else the family's."""
    family, recorded = family_of(config), getattr(config, "mask_token_id", None)
    token = family.mask_token
    if recorded is not None or token not in tokenizer.get_vocab():
        mask_id = family.contract.get("mask_id") if recorded is None else recorded
        token = None if mask_id is None else tokenizer.convert_ids_to_tokens(mask_id)
    if token is None and family.adds_mask_token and recorded in (None, len(tokenizer)):
        token = family.mask_token
    if token is not None:
        tokenizer.add_special_tokens({"mask_token": token})


def mask_remedy(tokenizer: PreTrainedTokenizerFast, num_embeddings: int | None = None) -> str:
    """How to give a tokenizer a mask token below ``num_embeddings``, as part of a sentence."""
    candidates = mask_like_tokens(tokenizer, num_embeddings)
    existing = "name an unused token of the vocabulary (tokenizer.mask_token = ...)"
    if candidates:
        existing = f"name the one that looks like it (tokenizer.mask_token = {candidates[0]!r})"
    return (
        f"{existing} and save the tokenizer; or add one "
        '(tokenizer.add_special_tokens({"mask_token": "<|mask|>"})), call '
        "model.resize_token_embeddings(len(tokenizer)) if the model has fewer embeddings, and save both"
    )


def mask_like_tokens(tokenizer: PreTrainedTokenizerFast, num_embeddings: int | None = None) -> list[str]:
    """Added tokens without a role, below ``num_embeddings``, that look like a mask token; lowest id first."""
    taken = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.mask_token}
    return [
        token
        for token, token_id in sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
        if "mask" in token.casefold() and token not in taken
        if num_embeddings is None or token_id < num_embeddings
    ]
