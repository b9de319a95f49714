"""What is to be aligned: one text or row as it was typed, or a sample of a source or a recipe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tide.data import Mixture, Rejected, RejectedRow, TextRow, parse_row, read_row
from tide.preparation import Preparation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jaxtyping import Int64

    from tide.config import Recipe
    from tide.data import Raw, Row, Source
    from tide.inspection.aligned_rows import AlignedRow, Aligner

ROWS_AT_ONCE = 64


def typed_row(text: str, *, escapes: bool = False, say: Callable[[str], None] = lambda line: None) -> Row:
    """The row that a text is: a JSON object is a row in any form that data have, all else is plain text.

    Args:
        text: not empty.
        escapes: \\n in a plain text stands for a line break.
        say: told, in a line, if the text begins as JSON does and is yet plain text.
    Raises:
        ValueError: there is no text, or the object is no row.
    """
    try:
        value, fault = json.loads(text), "it is JSON, but no object"
    except ValueError as error:
        value, fault = None, f"it is not JSON ({error})"
    if not isinstance(value, dict):
        if not text:
            raise ValueError("align: expected a text or a row, got an empty one.")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError("align: the text is not UTF-8. Convert it, or drop the bytes that are not.")
        if text.lstrip()[:1] in ("{", "["):
            say(f"read as plain text, for {fault}")
        return TextRow("", text.replace("\\n", "\n") if escapes else text)
    try:
        return parse_row(value)
    except RejectedRow as error:
        raise ValueError(
            f"align: the row is unfit ({error}). Correct it; to align a JSON object as text, wrap it in "
            '{"text": ...}.'
        ) from None


class Rows(Protocol):
    """What `sampled` reads: a source, or several in one order."""

    def __len__(self) -> int: ...
    def rows(self, indices: Int64[np.ndarray, " n"]) -> list[Raw | Rejected]: ...
    def where(self, index: int) -> str: ...


@dataclass(frozen=True)
class MixedRows:
    """The rows of several sources in one order.

    Attributes:
        sources: in the order that the mixture was made for.
        mixture: which row of which source stands at each place.
    """

    sources: Sequence[Source]
    mixture: Mixture

    @classmethod
    def of(cls, recipe: Recipe) -> MixedRows:
        """What `tide prepare` reads with this recipe, in its order.

        Args:
            recipe: its sources, weights and number of rows.
        Raises:
            ValueError: a source is not there, or holds no rows.
        """
        preparation = Preparation.of(recipe)
        return cls(preparation.sources, preparation.mixture)

    def __len__(self) -> int:
        return len(self.mixture)

    def rows(self, indices: Int64[np.ndarray, " n"]) -> list[Raw | Rejected]:
        """The rows at these places, in this order.

        Args:
            indices: [n] int64, each from 0 to len(self) - 1.
        """
        part = Mixture(self.mixture.source[indices], self.mixture.row[indices])
        return part.read(self.sources, 0, len(part))

    def where(self, index: int) -> str:
        """File and line of the row at a place, or what comes closest."""
        return self.mixture.where(self.sources, index)


def sampled(source: Rows, num_rows: int, align: Aligner) -> Iterator[tuple[int, AlignedRow | Rejected]]:
    """Rows evenly from a source, aligned, each with its number.

    Args:
        source: or `MixedRows`.
        num_rows: at most; all where the source has no more.
        align: aligns them.
    """
    numbers = np.unique(np.linspace(0, len(source) - 1, min(num_rows, len(source))).astype(np.int64))
    for start in range(0, len(numbers), ROWS_AT_ONCE):
        part = numbers[start : start + ROWS_AT_ONCE]
        rows = list(map(read_row, source.rows(part)))
        aligned = iter(align([row for row in rows if not isinstance(row, Rejected)]))
        for number, row in zip(part.tolist(), rows, strict=True):
            yield number, row if isinstance(row, Rejected) else next(aligned)
