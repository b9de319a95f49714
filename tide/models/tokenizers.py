"""Tokenizers from a folder or the hub, checked for what diffusion needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoTokenizer

from tide.models.places import reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def load_tokenizer(path: str, *, needs_mask: bool = True) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer with a mask token.

    Args:
        path: a folder, or the id of a repository on the hub.
        needs_mask: False accepts a tokenizer without a mask token, as autoregressive models have.
    Raises:
        ValueError: no readable tokenizer at `path`, a slow one, or no mask token apart from eos, pad and bos.
    """
    with reading("load_tokenizer", "tokenizer", path, "with tokenizer.json"):
        folder = Path(path)
        if folder.is_dir() and not any((folder / name).is_file() for name in _FILES):
            # transformers would make an empty tokenizer of the model's type.
            raise FileNotFoundError("no such file")
        tokenizer = AutoTokenizer.from_pretrained(path)
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"load_tokenizer: {path!r} holds a slow tokenizer ({type(tokenizer).__name__}); alignment needs "
            "a fast one. Load it with use_fast=True and save it with tokenizer.save_pretrained."
        )
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


def mask_remedy(tokenizer: PreTrainedTokenizerFast, num_embeddings: int | None = None) -> str:
    """How to give a tokenizer a mask token below ``num_embeddings``, as part of a sentence."""
    taken = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.mask_token}
    candidates = [
        token
        for token, token_id in sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
        if "mask" in token.casefold() and token not in taken
        if num_embeddings is None or token_id < num_embeddings
    ]
    existing = "name an unused token of the vocabulary (tokenizer.mask_token = ...)"
    if candidates:
        existing = f"name the one that looks like it (tokenizer.mask_token = {candidates[0]!r})"
    return (
        f"{existing} and save the tokenizer; or add one "
        '(tokenizer.add_special_tokens({"mask_token": "<|mask|>"})), call '
        "model.resize_token_embeddings(len(tokenizer)) if the model has fewer embeddings, and save both"
    )
