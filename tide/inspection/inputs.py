"""Rows to align: one as typed, or a sample of a source or a recipe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tide.data import Mixture, Rejected, RejectedRow, TextRow, parse_row, read_row
from tide.preparation import Preparation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Int64

    from tide.config import Recipe
    from tide.data import Raw, Row, Source
    from tide.inspection.aligned_rows import AlignedRow, Aligner

ROWS_AT_ONCE = 64


def typed_row(text: str, *, escapes: bool = False, log: Callable[[str], None] = lambda line: None) -> Row:
    """A row from text: a JSON object is a row in any form that data have, all else plain text.

    Args:
        text: not empty.
        escapes: \\n in a plain text stands for a line break.
        log: called with a line if the text begins as JSON does and is read as plain text.
    Raises:
        ValueError: the text is empty or not UTF-8, or the object is no row.
    """
    try:
        value, fault = json.loads(text), "it is JSON, but no object"
    except ValueError as error:
        value, fault = None, f"it is not JSON ({error})"
    if not isinstance(value, dict):
        if not text:
            raise ValueError("align: expected a text or a row, got an empty one.")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError("align: the text is not UTF-8. Convert it, or remove the bytes that are not.")
        if text.lstrip()[:1] in ("{", "["):
            log(f"read as plain text, for {fault}")
        return TextRow("", text.replace("\\n", "\n") if escapes else text)
    try:
        return parse_row(value)
    except RejectedRow as error:
        raise ValueError(
            f"align: row rejected: {error}. Correct it; to align a JSON object as text, wrap it in "
            '{"text": ...}.'
        ) from None


@dataclass(frozen=True)
class MixedRows:
    """The rows that `tide prepare` reads with a recipe, in their order."""

    preparation: Preparation

    @classmethod
    def of(cls, recipe: Recipe) -> MixedRows:
        """Open the recipe's sources; a missing or empty one is a ValueError."""
        return cls(Preparation.of(recipe))

    def __len__(self) -> int:
        return len(self.preparation.mixture)

    def rows(self, indices: Int64[np.ndarray, " n"]) -> list[Raw | Rejected]:
        """The rows at these places, in this order."""
        mixture = self.preparation.mixture
        part = Mixture(mixture.source[indices], mixture.row[indices])
        return part.read(self.preparation.sources, 0, len(part))

    def where(self, index: int) -> str:
        """File and line of the row at a place, or the nearest to that."""
        return self.preparation.where(index)


def sampled(
    source: Source | MixedRows, num_rows: int, align: Aligner
) -> Iterator[tuple[int, AlignedRow | Rejected]]:
    """Rows spread evenly over a source, at most `num_rows`, aligned, each with its index."""
    indices = np.unique(np.linspace(0, len(source) - 1, min(num_rows, len(source))).astype(np.int64))
    for start in range(0, len(indices), ROWS_AT_ONCE):
        part = indices[start : start + ROWS_AT_ONCE]
        rows = list(map(read_row, source.rows(part)))
        aligned = iter(align([row for row in rows if not isinstance(row, Rejected)]))
        for index, row in zip(part.tolist(), rows, strict=True):
            yield index, row if isinstance(row, Rejected) else next(aligned)
