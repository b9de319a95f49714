"""Where the tokens of one sequence lie in the UTF-8 bytes of its text.

Most tokens spell the bytes of the text, and their spans follow one another. A tokenizer that normalises reads
some stretches of the text in another spelling: these are edits. A token may begin or end inside an edit; such
a place is no offset of the text, and is written as the edge of the edit and the number of spelled bytes
before the place (a split).

Legend: L tokens, E edits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64


@dataclass(frozen=True, eq=False)
class Respelling:
    """The edits of one text, and the tokens that begin or end inside one.

    Attributes:
        stream: the bytes that all tokens spell.
        edit_starts: [E] int64, increasing: where each edited stretch begins in the text, in bytes.
        edit_ends: [E] int64: where it ends; never empty.
        stream_starts: [E] int64: where its spelling begins in `stream`.
        stream_ends: [E] int64: where its spelling ends; at its beginning where the tokenizer drops it.
        start_splits: [L] int64: spelled bytes of an edit that lie before the token; 0 where it begins at an
            offset of the text. Where positive, the token's start is the beginning of that edit.
        end_splits: [L] int64: the same for the token's end; where positive, it is the end of that edit.
    """

    stream: bytes
    edit_starts: Int64[np.ndarray, " E"]
    edit_ends: Int64[np.ndarray, " E"]
    stream_starts: Int64[np.ndarray, " E"]
    stream_ends: Int64[np.ndarray, " E"]
    start_splits: Int64[np.ndarray, " L"]
    end_splits: Int64[np.ndarray, " L"]

    @property
    def dropped(self) -> Bool[np.ndarray, " E"]:
        """[E] bool: edits of which the tokenizer spells nothing."""
        dropped: Bool[np.ndarray, " E"] = self.stream_starts == self.stream_ends
        return dropped

    def spelling(self, edit: int) -> bytes:
        """What the tokenizer reads in place of the edit's text."""
        return self.stream[self.stream_starts[edit] : self.stream_ends[edit]]

    def within(self, start: int, end: int, kept: slice, clipped: Bool[np.ndarray, " K"]) -> Respelling:
        """The edits inside [start, end), from `start` on, for the tokens in `kept`; `clipped` begin at 0.

        Dropped stretches are clipped: a part of nothing is nothing. Of other edits that stand across an edge
        no token is kept, so they are left out.
        """
        starts, ends = np.maximum(self.edit_starts, start), np.minimum(self.edit_ends, end)
        whole = (starts == self.edit_starts) & (ends == self.edit_ends)
        inside = (starts < ends) & (whole | self.dropped)
        return Respelling(
            stream=self.stream,
            edit_starts=starts[inside] - start,
            edit_ends=ends[inside] - start,
            stream_starts=self.stream_starts[inside],
            stream_ends=self.stream_ends[inside],
            start_splits=np.where(clipped, 0, self.start_splits[kept]),
            end_splits=self.end_splits[kept],
        )


@dataclass(frozen=True, eq=False)
class TokenSpans:
    """Byte spans of the tokens of one sequence: half-open, in order.

    Attributes:
        text: the text, UTF-8.
        starts: [L] int64, where each token begins in `text`.
        ends: [L] int64, where it ends. A token that ends inside an edit ends where the edit does, and the
            next one begins where the edit begins: their spans overlap, and there is no boundary between them.
        has_bytes: [L] bool, False for special tokens and for tokens that cover nothing of the text.
        special: [L] bool. A special token that stands in the text spans its literal text; one that was added
            has an empty span.
        respelled: the edits of the text; None where the tokens spell the text itself.
    """

    text: bytes
    starts: Int64[np.ndarray, " L"]
    ends: Int64[np.ndarray, " L"]
    has_bytes: Bool[np.ndarray, " L"]
    special: Bool[np.ndarray, " L"]
    respelled: Respelling | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def within(self, start: int, end: int, *, blanks_from: int | None = None) -> tuple[TokenSpans, slice]:
        """The tokens that lie wholly inside a stretch of the text.

        Args:
            start: first byte of the stretch.
            end: the byte after its last.
            blanks_from: a byte before the stretch. A token that begins there or behind it, and holds white
                space alone before the stretch, counts as the part of it that lies inside.
        Returns:
            Spans of those tokens, with offsets from `start` and the stretch as their text; and their
            positions in the sequence.
        Raises:
            ValueError: not 0 <= start <= end <= length of the text in bytes.
        """
        if not 0 <= start <= end <= len(self.text):
            raise ValueError(
                f"TokenSpans.within: a stretch must satisfy 0 <= start <= end <= {len(self.text)}, the bytes "
                f"of the text; got start={start}, end={end}. Offsets are in UTF-8 bytes, not in characters."
            )
        first = int(np.searchsorted(self.starts, start, side="left"))
        first -= blanks_from is not None and self._reaches_in(first - 1, blanks_from, start)
        after = max(first, int(np.searchsorted(self.ends, end, side="right")))
        kept = slice(first, after)
        clipped = self.starts[kept] < start
        spans = TokenSpans(
            text=self.text[start:end],
            starts=np.maximum(self.starts[kept] - start, 0),
            ends=self.ends[kept] - start,
            has_bytes=self.has_bytes[kept],
            special=self.special[kept],
            respelled=None if self.respelled is None else self.respelled.within(start, end, kept, clipped),
        )
        return spans, kept

    def _reaches_in(self, token: int, blanks_from: int, start: int) -> bool:
        """Whether a token that begins before `start` is white space up to there, and more behind it."""
        if token < 0 or self.special[token]:
            return False
        if not blanks_from <= self.starts[token] < start < self.ends[token]:
            return False
        edits = self.respelled
        if edits is not None and ((edits.edit_starts < start) & (start < edits.edit_ends)).any():
            return False  # what of it lies inside cannot be told
        return self.text[self.starts[token] : start].decode(errors="replace").isspace()
