"""Some rows of a source, as a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tide.data.conversation import Conversation, Raw, Rejected, Row, read_row
from tide.data.sources import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int64


def rows_with_answer(source: Source, text: str) -> Source:
    """The rows of which an answer contains a text; all are read once to find them.

    Args:
        source: any.
        text: to be found as it is written.
    Returns:
        A source of those rows in their order. Rows that are unfit stay in it, to be counted and set aside.
    Raises:
        ValueError: no row that is fit has it.
    """
    kept, num_unfit = [], 0
    for index, raw in source:
        row = read_row(raw)
        if isinstance(row, Rejected):
            num_unfit += 1
            kept.append(index)
        elif any(text in answer for answer in _answers(row)):
            kept.append(index)
    if len(kept) == num_unfit:
        unfit = f" ({num_unfit} of them unfit)" if num_unfit else ""
        raise ValueError(
            f"rows_with_answer: no answer in the {len(source)} rows{unfit} of {source.name!r} contains "
            f"{text!r}, upper and lower case as written. Correct answer_contains, or leave it out."
        )
    return Source(source.name, source.files, [_Selected(source, np.array(kept, dtype=np.int64))])


def _answers(row: Row) -> list[str]:
    if isinstance(row, Conversation):
        return [message.content for at, message in enumerate(row.messages) if row.is_answer(at)]
    return [row.completion]


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
