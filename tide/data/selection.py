"""Select rows of a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tide.data.conversation import Raw, Rejected, read_row
from tide.data.sources import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int64


def rows_with_answer(source: Source, text: str) -> Source:
    """Select the rows of which an answer contains a text; rejected rows stay, to be counted.

    Args:
        source: read once.
        text: found as it is written.
    Raises:
        ValueError: no row has it.
    """
    kept, num_rejected = [], 0
    for index, raw in source:
        row = read_row(raw)
        if isinstance(row, Rejected):
            num_rejected += 1
            kept.append(index)
        elif any(text in answer for answer in row.answers):
            kept.append(index)
    if len(kept) == num_rejected:
        rejected = f" ({num_rejected} of them rejected)" if num_rejected else ""
        raise ValueError(
            f"rows_with_answer: no answer in the {len(source)} rows{rejected} of {source.name!r} contains "
            f"{text!r}, upper and lower case as written. Correct answer_contains, or leave it out."
        )
    return Source(source.name, source.files, [_Selected(source, np.array(kept, dtype=np.int64))])


class _Selected:
    """Rows of a source by their numbers."""

    def __init__(self, source: Source, kept: Int64[np.ndarray, " n"]) -> None:
        self.source = source
        self.kept = kept

    def __len__(self) -> int:
        return len(self.kept)

    def rows(self, indices: Sequence[int] | Int64[np.ndarray, " n"]) -> list[Raw | Rejected]:
        return self.source.rows(self.kept[indices])

    def where(self, index: int) -> str:
        return self.source.where(int(self.kept[index]))
