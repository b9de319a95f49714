"""Tokenize rendered rows, with the loss mask of their tokens."""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tide.data.conversation import Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Int64
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast

    from tide.data.rendering import Rendered


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """Tokens of a rendered row, neither cut nor filled.

    Attributes:
        token_ids: [L] int64.
        loss_mask: [L] bool, the tokens that the loss reads.
        piece_lengths: tokens of each piece that was tokenized apart; their sum is L.
    """

    token_ids: Int64[np.ndarray, " L"]
    loss_mask: Bool[np.ndarray, " L"]
    piece_lengths: tuple[int, ...]


def tokenize_rendered(
    rendered: Sequence[Rendered], tokenizer: PreTrainedTokenizerFast
) -> list[TokenizedText | Rejected]:
    """Tokenize rendered rows in one batch, adding no special tokens.

    The loss reads a token that begins inside a loss span. One that begins before the span is predicted before
    it; one that runs over the end counts.

    Returns:
        One per row; Rejected("mask token in the text") where the text holds the token of hidden text.
    Raises:
        ValueError: the tokenizer is not a fast one, which locates its tokens in the text.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"tokenize_rendered: {type(tokenizer).__name__} is not a fast tokenizer, so it does not say "
            "where tokens begin. Load it with AutoTokenizer, or convert it to a tokenizer.json."
        )
    if not rendered:
        return []
    pieces = [piece for row in rendered for piece in row.pieces]
    batch = tokenizer(pieces, add_special_tokens=False, return_attention_mask=False)
    trimmed = _trimmed_spaces(tokenizer, len(tokenizer))
    encoded = zip(batch["input_ids"], batch.encodings, strict=True)
    tokenized: list[TokenizedText | Rejected] = []
    for row in rendered:
        ids, masks, at = [], [], 0
        for piece in row.pieces:
            token_ids, encoding = next(encoded)
            loss_mask = np.zeros(len(token_ids), dtype=bool)
            for span in row.loss_spans:
                if span[0] < at + len(piece) and span[1] > at:
                    first, last = (_first_from(place - at, encoding, token_ids, trimmed) for place in span)
                    loss_mask[first:last] = True
            ids.append(np.array(token_ids, dtype=np.int64))
            masks.append(loss_mask)
            at += len(piece)
        text = TokenizedText(np.concatenate(ids), np.concatenate(masks), tuple(map(len, ids)))
        if tokenizer.mask_token_id is not None and (text.token_ids == tokenizer.mask_token_id).any():
            detail = f"{tokenizer.mask_token!r} stands for hidden text"
            tokenized.append(Rejected("mask token in the text", detail))
        else:
            tokenized.append(text)
    return tokenized


def _first_from(
    place: int, encoding: Encoding, token_ids: Sequence[int], trimmed: Int64[np.ndarray, " V"] | None
) -> int:
    """Find the first token that begins at character `place` or after it."""

    # Tokens begin in order, so few are looked at: all offsets as Python numbers take as long as tokenizing.
    def begin(token: int) -> int:
        start, _ = encoding.token_to_chars(token) or (0, 0)
        if trimmed is None:
            return start
        _, before = encoding.token_to_chars(token - 1) or (0, 0) if token else (0, 0)
        return max(min(before, start), start - int(trimmed[token_ids[token]]))

    return bisect_left(range(len(token_ids)), place, key=begin)


@lru_cache(maxsize=8)
def _trimmed_spaces(tokenizer: PreTrainedTokenizerFast, num_tokens: int) -> Int64[np.ndarray, " V"] | None:
    """Count the leading spaces of each token that its offsets leave out; None if they leave out none.

    Post-processors of byte-level tokenizers do that (`trim_offsets`).
    """
    processor = tokenizer.backend_tokenizer.post_processor
    if processor is None or not _trims(json.loads(processor.__getstate__())):
        return None
    tokens = tokenizer.convert_ids_to_tokens(range(num_tokens))
    # The byte-level alphabet writes a space as Ġ; other whitespace stands only in added tokens.
    spaces = (token.replace("Ġ", " ") if token else "" for token in tokens)
    return np.array([len(token) - len(token.lstrip()) for token in spaces], dtype=np.int64)


def _trims(state: Any) -> bool:
    if isinstance(state, dict):
        return state.get("trim_offsets") is True or any(map(_trims, state.values()))
    return isinstance(state, list) and any(map(_trims, state))
