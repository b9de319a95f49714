"""Tokenize rendered rows, with the loss mask of their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tide.data.conversation import Rejected
from tide.spelling import ByteTable, byte_places, is_blank

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Bool, Int64
    from transformers import PreTrainedTokenizerFast

    from tide.data.rendering import Rendered, Span
    from tide.spelling import TokenSpans

UNPLACED = "tokens without a place"
PIECES_AT_ONCE = 64  # placed in one pass, which costs what some thousand tokens do
UNKNOWN = -1
SHOWN = 40  # characters of a text in a reason


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

    Tokens are placed by the bytes that they spell, not by the library's offsets, which are wrong for some.

    Returns:
        One per row; Rejected("mask token in the text") where the text holds the token of hidden text,
        Rejected("tokens without a place") where the tokenizer respells a text so that some token may stand on
        either side of a loss span's edge.
    Raises:
        ValueError: the tokenizer is not a fast one, or the bytes of its tokens are needed and not known.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"tokenize_rendered: {type(tokenizer).__name__} is not a fast tokenizer, so the bytes of its "
            "tokens are not known. Load it with AutoTokenizer, or convert it to a tokenizer.json."
        )
    if not rendered:
        return []
    pieces = [piece for row in rendered for piece in row.pieces]
    batch = tokenizer(pieces, add_special_tokens=False, return_attention_mask=False)
    ids = [np.array(token_ids, dtype=np.int64) for token_ids in batch["input_ids"]]
    masks = iter(
        _loss_masks(pieces, ids, [spans for row in rendered for spans in _piece_spans(row)], tokenizer)
    )
    numbered = iter(ids)
    tokenized: list[TokenizedText | Rejected] = []
    for row in rendered:
        of_row = [next(numbered) for _ in row.pieces]
        loss_masks = [next(masks) for _ in row.pieces]
        token_ids = np.concatenate(of_row)
        if tokenizer.mask_token_id is not None and (token_ids == tokenizer.mask_token_id).any():
            detail = f"{tokenizer.mask_token!r} stands for hidden text"
            tokenized.append(Rejected("mask token in the text", detail))
        elif fault := next((mask for mask in loss_masks if isinstance(mask, Rejected)), None):
            tokenized.append(fault)
        else:
            loss_mask = np.concatenate(loss_masks)
            tokenized.append(TokenizedText(token_ids, loss_mask, tuple(map(len, of_row))))
    return tokenized


def _piece_spans(row: Rendered) -> Iterator[list[Span]]:
    """The loss spans of each piece, in its characters."""
    at = 0
    for piece in row.pieces:
        cut = ((max(start - at, 0), min(end - at, len(piece))) for start, end in row.loss_spans)
        yield [(start, end) for start, end in cut if start < end]
        at += len(piece)


def _loss_masks(
    pieces: Sequence[str],
    ids: Sequence[Int64[np.ndarray, " L"]],
    loss_spans: Sequence[Sequence[Span]],
    tokenizer: PreTrainedTokenizerFast,
) -> list[Bool[np.ndarray, " L"] | Rejected]:
    """The tokens of each piece that begin in its loss spans."""
    masks: list[Bool[np.ndarray, " L"] | Rejected] = [
        np.full(len(of_piece), bool(spans)) for of_piece, spans in zip(ids, loss_spans, strict=True)
    ]
    # A piece that is in the loss as a whole, or not at all, need not be looked into.
    parts = [at for at, spans in enumerate(loss_spans) if spans and spans != [(0, len(pieces[at]))]]
    for first in range(0, len(parts), PIECES_AT_ONCE):
        group = parts[first : first + PIECES_AT_ONCE]
        firsts = _firsts_in_spans(
            [pieces[at] for at in group],
            [ids[at] for at in group],
            [loss_spans[at] for at in group],
            _byte_table(tokenizer, len(tokenizer)),
        )
        for at, bounds in zip(group, firsts, strict=True):
            unknown = np.flatnonzero((bounds == UNKNOWN).any(axis=1))
            if unknown.size:
                shown = pieces[at][slice(*loss_spans[at][unknown[0]])][:SHOWN]
                detail = f"the tokenizer respells what stands at an edge of {shown!r}"
                masks[at] = Rejected(UNPLACED, detail)
                continue
            mask = np.zeros(len(ids[at]), dtype=np.bool_)
            for begin, end in bounds.tolist():
                mask[begin:end] = True
            masks[at] = mask
    return masks


def _firsts_in_spans(
    pieces: Sequence[str],
    ids: Sequence[Int64[np.ndarray, " L"]],
    loss_spans: Sequence[Sequence[Span]],
    table: ByteTable,
) -> list[Int64[np.ndarray, "S 2"]]:
    """Per piece and loss span, the first token that begins in it and the first behind it, or UNKNOWN."""
    places = list(map(byte_places, pieces))
    tokens = np.cumsum([0, *map(len, ids)])
    starts = np.cumsum([0, *(place(len(piece)) for place, piece in zip(places, pieces, strict=True))])
    located = zip(starts[:-1].tolist(), places, loss_spans, strict=True)
    edges = [start + place(character) for start, place, of in located for span in of for character in span]
    num_edges = [2 * len(spans) for spans in loss_spans]
    first, after = (np.repeat(of, num_edges) for of in (tokens[:-1], tokens[1:]))
    spans = table.spans_of(pieces, ids)
    found = _firsts_from(np.array(edges), first, after, spans, np.concatenate(ids), table)
    found = np.where(found == UNKNOWN, UNKNOWN, found - first).reshape(-1, 2)
    return np.split(found, np.cumsum(list(map(len, loss_spans)))[:-1])


def _firsts_from(
    edges: Int64[np.ndarray, " E"],
    first: Int64[np.ndarray, " E"],
    after: Int64[np.ndarray, " E"],
    spans: TokenSpans,
    token_ids: Int64[np.ndarray, " L"],
    table: ByteTable,
) -> Int64[np.ndarray, " E"]:
    """The first token of [first, after) that begins at each edge or behind it; UNKNOWN where a text hides it.

    Whitespace in front of an edge, which the tokenizer drops or respells, leaves the token behind it room to
    begin there.
    """
    if not len(spans):
        return first
    found = np.clip(np.searchsorted(spans.starts, edges), first, after)
    # A token without text there, and not blank, is of the character before, respelled as several words.
    is_empty = spans.starts == spans.ends
    is_rest = is_empty.copy()
    is_rest[is_empty] = [not is_blank(table.tokens[token_id]) for token_id in token_ids[is_empty].tolist()]
    stops = np.flatnonzero(~is_empty | is_rest)
    stop = np.append(stops, len(spans))[np.searchsorted(stops, found)]
    is_unknown = (stop < after) & np.append(is_rest, False)[stop]
    if spans.located is None and not table.drops_whitespace:
        return np.where(is_unknown, UNKNOWN, found)

    is_loose = np.zeros(len(spans), dtype=np.bool_) if spans.located is None else ~spans.located
    holds = spans.special if table.drops_whitespace else np.ones(len(spans), dtype=np.bool_)
    # Tokens that end before the edge are not loose there.
    ended = np.minimum(np.searchsorted(spans.ends, edges, side="right"), found)
    barrier = np.maximum(_behind_last(holds & ~is_loose, found), _behind_last(holds, ended))
    blank_starts, blank_ends = _blanks_around(edges, spans.text)
    within_blanks = np.minimum(np.searchsorted(spans.starts, blank_starts), found)
    data = np.frombuffer(spans.text + b" ", np.uint8)
    goes_on = _behind_last(data[spans.starts] & 0xC0 == 0x80, found)  # with bytes of a character before it
    found = np.maximum.reduce([first, barrier, within_blanks, goes_on])
    before = np.maximum(found - 1, 0)
    may_begin_here = is_loose[before] & (edges < spans.ends[before]) & (blank_ends < spans.ends[before])
    is_unknown |= (found > first) & (found > barrier) & may_begin_here
    return np.where(is_unknown, UNKNOWN, found)


def _behind_last(mask: Bool[np.ndarray, " L"], positions: Int64[np.ndarray, " E"]) -> Int64[np.ndarray, " E"]:
    """The position behind the last True in front of each position; 0 where there is none."""
    return np.append(0, np.flatnonzero(mask) + 1)[np.searchsorted(np.flatnonzero(mask), positions)]


def _blanks_around(
    edges: Int64[np.ndarray, " E"], text: bytes
) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
    """Return two bytes per edge: the start of the blanks before it, and the end of those after it."""
    characters = text.decode()
    blank = {character for character in set(characters) if is_blank(character.encode())}
    solid = np.flatnonzero([character not in blank for character in characters])
    place = byte_places(characters)
    starts, ends = (np.array([place(at) for at in of.tolist()], np.int64) for of in (solid, solid + 1))
    return (
        np.append(0, ends)[np.searchsorted(ends, edges, side="right")],
        np.append(starts, len(text))[np.searchsorted(starts, edges)],
    )


@lru_cache(maxsize=8)
def _byte_table(tokenizer: PreTrainedTokenizerFast, num_tokens: int) -> ByteTable:
    """Keep a table per tokenizer; it is made again when tokens are added."""
    return ByteTable.from_tokenizer(tokenizer)
