"""Where the tokens of one sequence lie in the UTF-8 bytes of its text.

Legend: L tokens, B bytes of text; A stretches of the text, with K tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jaxtyping import Bool, Int64


@dataclass(frozen=True, eq=False)
class TokenSpans:
    """Byte spans of the tokens of one sequence: half-open, in order.

    Attributes:
        text: the text, UTF-8.
        starts: [L] int64, where each token begins in `text`.
        ends: [L] int64, where it ends. The span of a rejected token is that of the characters that are
            respelled, where these are known, else all text that its bytes may stand for: it may overlap its
            neighbours'.
        has_bytes: [L] bool, the token's bytes are those of the text in its span, but for an added prefix.
            False for special tokens, rejected ones, and those that cover nothing of the text.
        special: [L] bool. A special token that stands in the text spans its literal text; one that was added
            has an empty span.
        rejected: [B] bool, bytes that the tokenizer respells or drops, and those of tokens over them; None
            where there are none.
        located: [L] bool, the token begins at its start; False where it may begin anywhere in its span. None
            where all do.
    """

    text: bytes
    starts: Int64[np.ndarray, " L"]
    ends: Int64[np.ndarray, " L"]
    has_bytes: Bool[np.ndarray, " L"]
    special: Bool[np.ndarray, " L"]
    rejected: Bool[np.ndarray, " B"] | None = None
    located: Bool[np.ndarray, " L"] | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def positions(self, stretches: Stretches) -> tuple[Int64[np.ndarray, " A"], Int64[np.ndarray, " A"]]:
        """[A] each: the first token that lies in each stretch, and the one after its last."""
        starts, ends = stretches.starts, stretches.ends
        firsts = np.searchsorted(self.starts, starts, side="left")
        if len(self):
            # A token that is whitespace up to the stretch, and more behind it, counts as the part inside.
            before = np.maximum(firsts - 1, 0)
            begins, reach = self.starts[before], self.ends[before]
            reaches_in = (stretches.blanks_from <= begins) & (begins < starts) & (starts < reach)
            for at in np.flatnonzero(reaches_in & self.has_bytes[before]).tolist():
                firsts[at] -= self.text[begins[at] : starts[at]].decode(errors="replace").isspace()
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
            firsts, afters: [A] int64, as `positions` returns them.
        Returns:
            Spans of those tokens, with the stretches, joined, as their text; and [K] int64, their positions.
        """
        tokens, stretch = runs(firsts, afters)
        shift = (stretches.borders[:-1] - stretches.starts)[stretch]
        rejected = self.rejected
        if rejected is not None:
            rejected = np.concatenate([rejected[:0], *(rejected[start:end] for start, end in stretches)])
        spans = TokenSpans(
            text=b"".join(self.text[start:end] for start, end in stretches),
            starts=np.maximum(self.starts[tokens], stretches.starts[stretch]) + shift,
            ends=self.ends[tokens] + shift,
            has_bytes=self.has_bytes[tokens],
            special=self.special[tokens],
            rejected=rejected,
            located=None if self.located is None else self.located[tokens],
        )
        return spans, tokens


@dataclass(frozen=True, eq=False)
class Stretches:
    """Parts of a text, in bytes: in order, apart.

    Attributes:
        starts, ends: [A] int64, half-open.
        blanks_from: [A] int64: a token that begins there or behind it, but before the stretch, and holds
            whitespace alone up to the stretch, counts as the part of it that lies inside.
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


def byte_places(text: str) -> Callable[[int], int]:
    """Return the function from a character's number, up to len(text), to that of its first UTF-8 byte."""
    if text.isascii():
        return int
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.append(0, np.cumsum(widths)).item
