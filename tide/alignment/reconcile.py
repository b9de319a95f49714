"""Spans of tokens that do not spell their text as it stands: normalized, prefixed, without its white space,
or with special tokens in it.

The text is laid out in units beside the stream of bytes that the tokenizer reads. The tokens must spell that
stream, byte by byte; then every place between two tokens is a place between units, or inside one. Nothing is
searched for but added tokens, and those only count where the stream has them.

Legend: L tokens, U units.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tide.alignment.token_spans import Respelling, TokenSpans
from tide.alignment.units import Layout, Literal, UnitTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jaxtyping import Bool, Int64

    from tide.alignment.token_stream import Texts, Tokens
    from tide.alignment.tokenizer_spec import AddedToken

# White space as the tokenizers library means it; Python's \s has four controls more.
BLANKS = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*"
# Units on either side of a difference that are joined, and characters in a text, before the text is refused.
MAX_JOINED = 32
MAX_JOINED_IN_TEXT = 4096
# Bytes that an error shows on either side of a difference.
ERROR_CONTEXT = 20


def reconcile(
    texts: Texts,
    tokens: Tokens,
    units: UnitTable,
    added: Mapping[int, AddedToken],
    spelled: Sequence[bytes],
) -> TokenSpans:
    """Spans of tokens in the texts that they were made of, by way of what the tokenizer reads.

    Args:
        texts: R texts; the last may go on behind its last token.
        tokens: of each text.
        units: what the tokenizer reads for pieces of text.
        added: added tokens by id.
        spelled: bytes of every id; empty for special tokens.
    Raises:
        ValueError: the tokens do not spell the texts, or not in a way that can be told from the outside.
    """
    literals = find_literals(texts, tokens, added, spelled)
    layout = _verified_layout(texts, tokens, units, literals)
    inside = _inside_units(layout)
    starts, start_splits = _token_starts(tokens.starts, layout, *inside)
    ends, end_splits = _token_ends(tokens.ends, layout, *inside)

    # A token without bytes lies where the last one ended, or spans the literal text that it stands for.
    is_placed = (tokens.lengths == 0) & (end_splits == 0)
    for position, unit in _match_literals(texts, tokens, layout, literals):
        starts[position], ends[position] = layout.text_offsets[unit : unit + 2]
        is_placed[position] = False
    ends[is_placed] = np.maximum.accumulate(ends)[is_placed]
    starts[is_placed] = ends[is_placed]

    has_bytes = ~tokens.special & (tokens.lengths > 0) & (starts < ends)
    edits = np.flatnonzero(layout.changed & (np.diff(layout.text_offsets) > 0))
    if not len(edits):
        return TokenSpans(texts.data, starts, ends, has_bytes, tokens.special)
    respelled = Respelling(
        stream=layout.stream,
        edit_starts=layout.text_offsets[edits],
        edit_ends=layout.text_offsets[edits + 1],
        stream_starts=layout.stream_offsets[edits],
        stream_ends=layout.stream_offsets[edits + 1],
        start_splits=start_splits,
        end_splits=end_splits,
    )
    return TokenSpans(texts.data, starts, ends, has_bytes, tokens.special, respelled)


def find_literals(
    texts: Texts, tokens: Tokens, added: Mapping[int, AddedToken], spelled: Sequence[bytes]
) -> list[Literal]:
    """Where the added tokens of each text stand in it; of two that begin at one place, the longer."""
    positions = np.flatnonzero(np.isin(tokens.ids, list(added))) if added else tokens.borders[:0]
    found_ids = tokens.ids[positions].tolist()
    borders = np.searchsorted(positions, tokens.borders).tolist()
    literals = []
    for (first, after), (start, end) in zip(pairwise(borders), pairwise(texts.chars.tolist()), strict=True):
        if first < after:
            present = sorted(set(found_ids[first:after]), key=lambda id_: (-len(added[id_].content), id_))
            for found_start, found_end, token_id in _found(
                texts.text[start:end], [added[id_] for id_ in present]
            ):
                literals.append(Literal(start + found_start, start + found_end, token_id, spelled[token_id]))
    return literals


def _found(text: str, present: Sequence[AddedToken]) -> Iterator[tuple[int, int, int]]:
    """Where added tokens stand, and which; the first in `present` of those that begin at one place."""
    if any(token.single_word or token.lstrip or token.rstrip for token in present):
        pattern = "|".join(f"({_pattern(token)})" for token in present)
        matches = re.finditer(pattern, text)
        found = ((match.span(), present[(match.lastindex or 1) - 1].token_id) for match in matches)
    else:  # Without groups, what they begin with in common is searched for first.
        ids = {token.content: token.token_id for token in reversed(present)}
        pattern = "|".join(re.escape(token.content) for token in present)
        found = ((match.span(), ids[match.group()]) for match in re.finditer(pattern, text))
    for (start, end), token_id in found:
        if start < end:
            yield start, end, token_id


def _pattern(token: AddedToken) -> str:
    pattern = re.escape(token.content)
    if token.single_word:
        pattern = rf"(?<!\w){pattern}(?!\w)"
    return (BLANKS if token.lstrip else "") + pattern + (BLANKS if token.rstrip else "")


def _verified_layout(texts: Texts, tokens: Tokens, units: UnitTable, literals: Sequence[Literal]) -> Layout:
    """The layout whose stream the tokens spell; units are joined where they are not read one by one."""
    text = texts.text
    joined: set[int] = set()
    last_difference, width = -1, 1
    while True:
        layout = units.lay_out(texts, literals, joined)
        difference = _first_difference(texts, tokens, layout)
        if difference is None:
            return layout
        width = 1 if difference > last_difference else 2 * width
        last_difference = max(difference, last_difference)
        is_final = not text or not units.speller.changes_text
        if is_final or width > MAX_JOINED or len(joined) > MAX_JOINED_IN_TEXT:
            raise ValueError(_difference_message(tokens, layout, difference))
        first, last = _characters_at(text, layout, difference)
        joined.update(range(max(1, first - width + 1), min(last + width, len(text))))
        joined.difference_update(texts.chars.tolist())


def _first_difference(texts: Texts, tokens: Tokens, layout: Layout) -> int | None:
    """The first byte at which the texts are not read as their tokens spell them, text by text."""
    difference = first_difference(tokens.stream, layout.stream)
    if len(texts.chars) > 2:
        # A prefix stands in front of the first character; it is a stretch of its own.
        read = layout.stream_offsets[np.searchsorted(layout.chars, texts.chars[1:-1], side="left")]
        spelled = tokens.stream_borders[1:-1]
        differs = np.flatnonzero(read != spelled)
        if len(differs):
            at = int(min(read[differs[0]], spelled[differs[0]]))
            difference = at if difference is None else min(at, difference)
    return difference


def _characters_at(text: str, layout: Layout, difference: int) -> tuple[int, int]:
    """The characters that a byte of the stream is read for."""
    unit = min(int(np.searchsorted(layout.stream_offsets, difference, side="right")), len(layout.changed)) - 1
    if layout.changed[unit]:
        return int(layout.chars[unit]), int(layout.chars[unit + 1])
    place = _text_offset(layout, difference)
    first = len(text.encode()[:place].decode(errors="ignore"))
    return first, first + 1


def _text_offset(layout: Layout, offset: int) -> int:
    """The byte of the text at which the reading of a byte of the stream begins."""
    unit = min(int(np.searchsorted(layout.stream_offsets, offset, side="right")), len(layout.changed)) - 1
    inner = 0 if unit < 0 or layout.changed[unit] else offset - int(layout.stream_offsets[unit])
    return int(layout.text_offsets[max(unit, 0)]) + inner


def first_difference(part: bytes, whole: bytes) -> int | None:
    """The first byte at which `whole` does not begin as `part` does; None where it does."""
    if whole.startswith(part):
        return None
    num_shared = min(len(part), len(whole))
    ours, theirs = (np.frombuffer(side, dtype=np.uint8, count=num_shared) for side in (part, whole))
    differs = ours != theirs
    return int(np.argmax(differs)) if differs.any() else num_shared


def _difference_message(tokens: Tokens, layout: Layout, at: int) -> str:
    context = slice(max(0, at - ERROR_CONTEXT), at + ERROR_CONTEXT)
    return (
        "ByteTable.spans: the tokens must spell the text as the tokenizer reads it; they first differ at "
        f"byte {_text_offset(layout, at)} of the text: tokens {tokens.stream[context]!r} (token "
        f"{tokens.token_at(at)}), text read as {layout.stream[context]!r}. Pass the text that the ids were "
        "made of, whole and in one piece; a tokenizer that changes text across characters in another way "
        "cannot be aligned."
    )


def _token_starts(
    offsets: Int64[np.ndarray, " L"],
    layout: Layout,
    is_changed: Bool[np.ndarray, " U1"],
    has_text: Bool[np.ndarray, " U1"],
) -> tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " L"]]:
    """Where tokens that begin at these stream offsets begin in the text: behind all that was dropped."""
    # Behind the last byte there is the end of the text.
    unit = np.append(layout.stretch_at, len(layout.changed))[offsets]
    inner = offsets - layout.stream_offsets[unit]
    is_changed, has_text = is_changed[unit], has_text[unit]
    places = layout.text_offsets[unit] + np.where(is_changed, 0, inner)
    return places, np.where(is_changed & has_text, inner, 0)


def _token_ends(
    offsets: Int64[np.ndarray, " L"],
    layout: Layout,
    is_changed: Bool[np.ndarray, " U1"],
    has_text: Bool[np.ndarray, " U1"],
) -> tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " L"]]:
    """Where tokens that end at these stream offsets end in the text: before all that was dropped."""
    after = np.append(np.int64(0), layout.stretch_at + 1)[offsets]
    missing = layout.stream_offsets[after] - offsets  # positive inside the unit before
    inner = np.where(missing > 0, offsets - layout.stream_offsets[after - 1], 0)
    is_changed, has_text = is_changed[after - 1], has_text[after - 1]
    places = layout.text_offsets[after] - np.where(is_changed, 0, missing)
    return places, np.where(is_changed & has_text, inner, 0)


def _inside_units(layout: Layout) -> tuple[Bool[np.ndarray, " U1"], Bool[np.ndarray, " U1"]]:
    """[U + 1] each: whether a stream offset inside a unit is no offset of its text, and whether it has text.

    The last entry stands for the end of the text.
    """
    return np.append(layout.changed, True), np.append(np.diff(layout.text_offsets) > 0, False)


def _match_literals(
    texts: Texts, tokens: Tokens, layout: Layout, literals: Sequence[Literal]
) -> list[tuple[int, int]]:
    """Which token stands for each literal text: the first of its id where the stream is as far.

    Returns:
        Positions of tokens and the units that they stand for.
    Raises:
        ValueError: the tokens go on behind a literal text that none of them stands for.
    """
    token_ids = np.array([literal.token_id for literal in literals], dtype=np.int64)
    found = np.flatnonzero(np.isin(tokens.ids, token_ids))
    candidates, ids, offsets = found.tolist(), tokens.ids[found].tolist(), tokens.starts[found].tolist()
    of_text = np.searchsorted(texts.chars, [literal.start for literal in literals], side="right") - 1
    first_tokens = tokens.borders[of_text].tolist()
    matched, at = [], 0
    places = layout.stream_offsets[layout.literals].tolist()
    for literal, unit, offset, first in zip(
        literals, layout.literals.tolist(), places, first_tokens, strict=True
    ):
        while at < len(candidates) and (
            offsets[at] < offset
            or candidates[at] < first
            or (offsets[at] == offset and ids[at] != literal.token_id)
        ):
            at += 1
        if at < len(candidates) and offsets[at] == offset:
            matched.append((candidates[at], unit))
            at += 1
        elif offset < len(tokens.stream):
            raise ValueError(
                f"ByteTable.spans: the text holds the added token of id {literal.token_id} at byte "
                f"{int(layout.text_offsets[unit])}, where the ids have none. Tokenize the text with its "
                "added tokens recognised, or align the stretches between them."
            )
    return matched
