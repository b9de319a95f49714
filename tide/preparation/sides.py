"""A row as each model reads it: rendered, tokenized, and its answers aligned. Composes data and alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tide.data import Rejected, RejectedRow, render, tokenize_rendered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from transformers import PreTrainedTokenizerFast

    from tide.data import Rendered, Row, TokenizedText


class Side(NamedTuple):
    """A row as one model reads it."""

    rendered: Rendered
    tokens: TokenizedText

    @property
    def is_text(self) -> bool:
        """Whether it is no conversation: prompt and completion are tokenized apart."""
        return len(self.rendered.pieces) > 1


def read_sides(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerFast,
    template_arguments: Mapping[str, Any] | None = None,
) -> list[Side | Rejected]:
    """Rows as one side reads them, or why it cannot.

    Args:
        rows: of any form.
        tokenizer: with a chat template where a row is a conversation.
        template_arguments: variables of that template.
    """
    sides: list[Side | Rejected | None] = []
    rendered: list[Rendered] = []
    for row in rows:
        try:
            rendered.append(render(row, tokenizer, template_arguments))
        except RejectedRow as error:
            sides.append(Rejected(error.reason, error.detail))
        except ValueError as error:
            # What is wrong with the template, without the function that found it.
            sides.append(Rejected("no working template", str(error).removeprefix("render: ")))
        else:
            sides.append(None)  # until it is tokenized
    tokenized = iter(zip(rendered, tokenize_rendered(rendered, tokenizer), strict=True))
    for at, side in enumerate(sides):
        if side is None:
            text, tokens = next(tokenized)
            sides[at] = tokens if isinstance(tokens, Rejected) else Side(text, tokens)
    return [side for side in sides if side is not None]


def read_pairs(
    rows: Sequence[Row],
    student: PreTrainedTokenizerFast,
    teacher: PreTrainedTokenizerFast,
    template_arguments: Mapping[str, Mapping[str, Any]],
) -> list[tuple[Side, Side] | Rejected]:
    """Rows as both sides read them, or why one cannot.

    Args:
        rows: of any form.
        student, teacher: their tokenizers.
        template_arguments: variables of the chat templates, by "student" and "teacher".
    """
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
