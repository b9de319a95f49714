"""Where the tokens of one sequence lie in the UTF-8 bytes of its text.

Most tokens spell the bytes of the text, and their spans follow one another. A tokenizer that normalises reads
some stretches of the text in another spelling: these are edits. A token may begin or end inside an edit; such
a place is no offset of the text, and is written as the edge of the edit and the number of spelled bytes
before the place (a split).

Legend: L tokens, E edits; of stretches of the text, A stretches with K tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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

    def gathered(
        self,
        starts: Int64[np.ndarray, " A"],
        ends: Int64[np.ndarray, " A"],
        shifts: Int64[np.ndarray, " A"],
        tokens: Int64[np.ndarray, " K"],
        clipped: Bool[np.ndarray, " K"],
    ) -> Respelling:
        """The edits inside stretches of the text, each moved by its shift, for these tokens.

        Dropped stretches are clipped: a part of nothing is nothing. Of other edits that stand across an edge
        no token is kept, so they are left out. `clipped` tokens begin where their stretch does.
        """
        first = np.searchsorted(self.edit_ends, starts, side="right")
        after = np.maximum(first, np.searchsorted(self.edit_starts, ends, side="left"))
        edits, stretch = runs(first, after)
        clipped_starts = np.maximum(self.edit_starts[edits], starts[stretch])
        clipped_ends = np.minimum(self.edit_ends[edits], ends[stretch])
        whole = (clipped_starts == self.edit_starts[edits]) & (clipped_ends == self.edit_ends[edits])
        inside = (clipped_starts < clipped_ends) & (whole | self.dropped[edits])
        edits, shift = edits[inside], shifts[stretch[inside]]
        return Respelling(
            stream=self.stream,
            edit_starts=clipped_starts[inside] + shift,
            edit_ends=clipped_ends[inside] + shift,
            stream_starts=self.stream_starts[edits],
            stream_ends=self.stream_ends[edits],
            start_splits=np.where(clipped, 0, self.start_splits[tokens]),
            end_splits=self.end_splits[tokens],
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

    def within(self, start: int, end: int) -> tuple[TokenSpans, slice]:
        """The tokens that lie wholly inside a stretch of the text.

        Args:
            start: first byte of the stretch.
            end: the byte after its last.
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
        stretch = Stretches.of([(start, end)])
        firsts, afters = self.positions(stretch)
        spans, _ = self.gathered(stretch, firsts, afters)
        return spans, slice(int(firsts[0]), int(afters[0]))

    def positions(self, stretches: Stretches) -> tuple[Int64[np.ndarray, " A"], Int64[np.ndarray, " A"]]:
        """[A] each: the first token that lies in each stretch, and the one after its last.

        Args:
            stretches: of the text.
        """
        starts, ends = stretches.starts, stretches.ends
        firsts = np.searchsorted(self.starts, starts, side="left")
        if len(self):
            # A token that is white space up to the stretch, and more behind it, counts as the part inside.
            before = np.maximum(firsts - 1, 0)
            begins, reach = self.starts[before], self.ends[before]
            reaches_in = (stretches.blanks_from <= begins) & (begins < starts) & (starts < reach)
            reaches_in &= ~self.special[before]
            for at in np.flatnonzero(reaches_in).tolist():
                blank = self.text[begins[at] : starts[at]].decode(errors="replace")
                firsts[at] -= blank.isspace() and not self._is_inside_edit(int(starts[at]))
        return firsts, np.maximum(firsts, np.searchsorted(self.ends, ends, side="right"))

    def gathered(
        self,
        stretches: Stretches,
        firsts: Int64[np.ndarray, " A"],
        afters: Int64[np.ndarray, " A"],
    ) -> tuple[TokenSpans, Int64[np.ndarray, " K"]]:
        """The tokens of stretches, one stretch after the other.

        Args:
            stretches: of the text.
            firsts, afters: [A] int64, as `positions` tells them.
        Returns:
            Spans of those tokens, with the stretches, joined, as their text; and [K] int64, their positions.
        """
        starts = stretches.starts
        shifts = stretches.borders[:-1] - starts
        tokens, stretch = runs(firsts, afters)
        clipped = self.starts[tokens] < starts[stretch]
        shift = shifts[stretch]
        spans = TokenSpans(
            text=b"".join(self.text[start:end] for start, end in stretches),
            starts=np.where(clipped, starts[stretch], self.starts[tokens]) + shift,
            ends=self.ends[tokens] + shift,
            has_bytes=self.has_bytes[tokens],
            special=self.special[tokens],
            respelled=None
            if self.respelled is None
            else self.respelled.gathered(starts, stretches.ends, shifts, tokens, clipped),
        )
        return spans, tokens

    def _is_inside_edit(self, place: int) -> bool:
        edits = self.respelled
        if edits is None:
            return False
        edit = int(np.searchsorted(edits.edit_starts, place, side="left")) - 1
        return edit >= 0 and place < int(edits.edit_ends[edit])


@dataclass(frozen=True, eq=False)
class Stretches:
    """Parts of a text, in bytes: in order, apart.

    Attributes:
        starts, ends: [A] int64, half-open.
        blanks_from: [A] int64: a token that begins there or behind it, but before the stretch, and holds
            white space alone up to the stretch, counts as the part of it that lies inside.
    """

    starts: Int64[np.ndarray, " A"]
    ends: Int64[np.ndarray, " A"]
    blanks_from: Int64[np.ndarray, " A"]

    @classmethod
    def of(cls, spans: Sequence[tuple[int, int]], blanks_from: Sequence[int] | None = None) -> Stretches:
        """From pairs; without `blanks_from`, tokens lie wholly inside."""
        array = np.array(spans, dtype=np.int64).reshape(-1, 2)
        blanks = array[:, 0] if blanks_from is None else np.array(blanks_from, dtype=np.int64)
        return cls(array[:, 0], array[:, 1], blanks)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.starts.tolist(), self.ends.tolist(), strict=True)

    @property
    def borders(self) -> Int64[np.ndarray, " A1"]:
        """[A + 1] int64: where each begins when they are joined, and where the last one ends."""
        borders = np.zeros(len(self.starts) + 1, dtype=np.int64)
        np.cumsum(self.ends - self.starts, out=borders[1:])
        return borders


def runs(
    firsts: Int64[np.ndarray, " A"], afters: Int64[np.ndarray, " A"]
) -> tuple[Int64[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
    """The numbers of all half-open ranges, one after the other, and the range that each is from."""
    counts = afters - firsts
    of = np.repeat(np.arange(len(counts)), counts)
    return np.arange(len(of)) + (firsts - (np.cumsum(counts) - counts))[of], of
