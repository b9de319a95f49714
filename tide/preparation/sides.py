"""Rows as each model reads them: rendered and tokenized."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tide.data import Rejected, RejectedRow, Rendered, render, tokenize_rendered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from transformers import PreTrainedTokenizerFast

    from tide.data import Row, TokenizedText


class Side(NamedTuple):
    """A row as one model reads it."""

    rendered: Rendered
    tokens: TokenizedText

    @property
    def is_text(self) -> bool:
        """True for a TextRow: prompt and completion are tokenized apart."""
        return len(self.rendered.pieces) > 1


def read_sides(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerFast,
    template_arguments: Mapping[str, Any] | None = None,
) -> list[Side | Rejected]:
    """Render and tokenize rows for one side."""
    rendered = [_rendered(row, tokenizer, template_arguments) for row in rows]
    tokenized = iter(tokenize_rendered([row for row in rendered if isinstance(row, Rendered)], tokenizer))
    sides: list[Side | Rejected] = []
    for row in rendered:
        if isinstance(row, Rejected):
            sides.append(row)
        else:
            tokens = next(tokenized)
            sides.append(tokens if isinstance(tokens, Rejected) else Side(row, tokens))
    return sides


def read_pairs(
    rows: Sequence[Row],
    student: PreTrainedTokenizerFast,
    teacher: PreTrainedTokenizerFast,
    template_arguments: Mapping[str, Mapping[str, Any]],
) -> list[tuple[Side, Side] | Rejected]:
    """Render and tokenize rows for both sides; template arguments come by "student" and "teacher"."""
    pairs: list[tuple[Side, Side] | Rejected] = []
    for one, other in zip(
        read_sides(rows, student, template_arguments.get("student")),
        read_sides(rows, teacher, template_arguments.get("teacher")),
        strict=True,
    ):
        if isinstance(one, Rejected):
            pairs.append(one)
        elif isinstance(other, Rejected):
            pairs.append(Rejected(other.reason, f"on the teacher's side, {other.detail}"))
        else:
            pairs.append((one, other))
    return pairs


def _rendered(
    row: Row, tokenizer: PreTrainedTokenizerFast, arguments: Mapping[str, Any] | None
) -> Rendered | Rejected:
    try:
        return render(row, tokenizer, arguments)
    except RejectedRow as error:
        return Rejected(error.reason, error.detail)
    except ValueError as error:
        return Rejected("no working template", str(error).removeprefix("render: "))
