"""Texts that follow one another, and the bytes that their tokens spell.

Legend: R texts, N characters, B bytes, L tokens of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tide.spelling.token_spans import TokenSpans

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Bool, Int64, UInt8


ERROR_CONTEXT = 20  # bytes that an error shows on either side of a difference


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts, one after the other.

    Attributes:
        text: all of them, joined.
        data: the same in UTF-8.
        chars: [R + 1] int64, where each begins in `text`, in characters, and where the last one ends.
        bytes: [R + 1] int64, the same in `data`.
    """

    text: str
    data: bytes
    chars: Int64[np.ndarray, " R1"]
    bytes: Int64[np.ndarray, " R1"]

    @classmethod
    def joined(cls, texts: Sequence[str]) -> Texts:
        """From each."""
        encoded = [text.encode() for text in texts]
        return cls("".join(texts), b"".join(encoded), offsets(map(len, texts)), offsets(map(len, encoded)))


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token sequences, one after the other, and the bytes that they spell.

    Attributes:
        ids: [L] int64.
        ends: [L] int64, where each token ends in `stream`.
        lengths: [L] int64, bytes.
        special: [L] bool; these have none.
        stream: what all of them spell.
        borders: [R + 1] int64, where the tokens of each text begin, and where the last one's end.
    """

    ids: Int64[np.ndarray, " L"]
    ends: Int64[np.ndarray, " L"]
    lengths: Int64[np.ndarray, " L"]
    special: Bool[np.ndarray, " L"]
    stream: bytes
    borders: Int64[np.ndarray, " R1"]

    @cached_property
    def starts(self) -> Int64[np.ndarray, " L"]:
        """[L] int64, where each token begins in `stream`."""
        starts: Int64[np.ndarray, " L"] = self.ends - self.lengths
        return starts

    @cached_property
    def stream_borders(self) -> Int64[np.ndarray, " R1"]:
        """[R + 1] int64, where the tokens of each text begin in `stream`, and where the last one's end."""
        borders: Int64[np.ndarray, " R1"] = np.append(0, self.ends)[self.borders]
        return borders

    def as_text(self, text: bytes) -> TokenSpans:
        """Spans in a text that begins with the stream; special tokens have no bytes in it."""
        return TokenSpans(text, self.starts, self.ends, self.lengths > 0, self.special)

    def token_at(self, offset: int) -> int:
        """Position of the token that holds the byte at `offset`: the first that ends after it."""
        return int(np.searchsorted(self.ends, offset, side="right"))


def offsets(lengths: Iterable[int]) -> Int64[np.ndarray, " R1"]:
    """[R + 1] int64: where each of R things begins when they follow one another, and where the last ends."""
    return np.cumsum([0, *lengths], dtype=np.int64)


def gather(
    flat: UInt8[np.ndarray, " T"], starts: Int64[np.ndarray, " K"], lengths: Int64[np.ndarray, " K"]
) -> UInt8[np.ndarray, " S"]:
    """The bytes of K parts of `flat`, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return flat[np.repeat(starts - (ends - lengths), lengths) + np.arange(total)]


def first_difference(part: bytes, whole: bytes) -> int | None:
    """The first byte at which `whole` does not begin as `part` does; None where it does."""
    if whole.startswith(part):
        return None
    size = min(len(part), len(whole))
    differs = np.frombuffer(part, np.uint8, size) != np.frombuffer(whole, np.uint8, size)
    return int(np.argmax(differs)) if differs.any() else size
